"""The MoCE-IR network in plain PyTorch."""

from moceir.model.network import MoCEIR, Routing

__all__ = ["MoCEIR", "Routing"]
