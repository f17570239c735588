"""Fixtures that these tests share with others."""

from tests.small_network import restore, restorer, weights

__all__ = ["restore", "restorer", "weights"]
