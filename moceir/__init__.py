"""MoCE-IR: all-in-one image restoration with complexity experts.

>>> from moceir import Restorer
>>> Restorer()("photo.jpg").save("restored.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moceir.config import MoCEIRConfig, preset
    from moceir.inference.restorer import Restorer
    from moceir.model import MoCEIR, load_model

__version__ = "0.1.0"

_HOMES = {
    "MoCEIR": "moceir.model",
    "MoCEIRConfig": "moceir.config",
    "Restorer": "moceir.inference.restorer",
    "load_model": "moceir.model",
    "preset": "moceir.config",
}

__all__ = ["MoCEIR", "MoCEIRConfig", "Restorer", "load_model", "preset"]


def __getattr__(name: str) -> object:
    # torch is loaded when it is first needed: the command line answers --help without it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moceir' has no attribute {name!r}")
