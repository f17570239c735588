"""The weights that come with the package."""

from __future__ import annotations

from pathlib import Path

SPECIALISTS = {
    "noise": ("noise",),
    "jpeg": ("jpeg",),
    "low_light": ("low_light",),
    "blur": ("motion_blur", "defocus_blur"),
    "weather": ("rain", "snow"),
    "haze": ("haze",),
}
"""Networks that know some kinds of degradation each, and these kinds; in the order in which they
are applied: what happened to a photo last is undone first, but noise before JPEG, as the specialist
for noise has seen compressed noise and that for JPEG has not."""

TOGETHER = "specialists"
"""The name of all of them, each applied to the photos that need it."""

BUNDLED = ("compact", *SPECIALISTS)
"""Names of the bundled weights, first those of a network for all kinds. Each has a model card,
NAME.md; that of the specialists is specialists.md."""


def bundled_path(name: str) -> Path:
    """The file of bundled weights; raises KeyError for another name."""
    if name not in BUNDLED:
        raise KeyError(name)
    return Path(__file__).with_name(f"{name}.safetensors")


SELECTOR = Path(__file__).with_name("selector.safetensors")
"""The weights of ``moceir.model.selector``'s network, which tells degradations apart."""

JUDGE = Path(__file__).with_name("judge.safetensors")
"""Those of ``moceir.model.judge``'s, which says which specialists a photo needs."""
