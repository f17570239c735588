"""The network of the paper (Sec. 3), and loading it from files."""

from moceir.model.load import (
    load_model,
    load_published,
    load_weights,
    save_published,
    save_weights,
)
from moceir.model.network import MoCEIR

__all__ = [
    "MoCEIR",
    "load_model",
    "load_published",
    "load_weights",
    "save_published",
    "save_weights",
]
