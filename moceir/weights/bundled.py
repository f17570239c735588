"""The weights that come with the package."""

from __future__ import annotations

from pathlib import Path

BUNDLED = ("compact",)
"""Names of the bundled weights, the default first; each has a model card, NAME.md."""


def bundled_path(name: str) -> Path:
    """The file of bundled weights; raises KeyError for another name."""
    if name not in BUNDLED:
        raise KeyError(name)
    return Path(__file__).with_name(f"{name}.safetensors")


SELECTOR = Path(__file__).with_name("selector.safetensors")
"""The weights of ``moceir.model.selector``'s network, which tells degradations apart."""
