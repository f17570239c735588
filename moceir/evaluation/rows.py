"""The rows of the tables of ``moceir.evaluation.synthetic``: ways to degrade a clean picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from moceir.data import degradations, synthesis
from moceir.data.degradations import Composition, Degradation, GaussianNoise
from moceir.data.kinds import KINDS, Single
from moceir.data.synthesis import STRENGTHS

CARD = (
    *KINDS,
    # Parameters other than the defaults, which some networks have been trained on more often.
    "noise:sigma=50",
    "motion_blur:angle=120",
    "motion_blur:length=15:angle=75",
    "defocus_blur:radius=3",
    "jpeg:quality=30",
    "low_light,noise",
    "haze,rain",
    "haze,snow",
    "rain,noise",
    "motion_blur,noise",
    "noise,jpeg:quality=30",
)

SYNTHESIS = ("clean", *(f"{kind}@{strength}" for kind in KINDS for strength in STRENGTHS))

VARIANTS = (
    *(f"noise:sigma={sigma}" for sigma in (15, 25, 50)),
    "haze",
    "turned:haze",
    "haze:view=0",
    *(f"low_light:exposure={stops}" for stops in (-3, -5, -6)),
    "rain",
    "rain:length=80:width=3",
    "snow",
    "motion_blur",
    "defocus_blur",
    *(f"jpeg:quality={quality}" for quality in (10, 30, 50)),
)

ROWS = {"card": CARD, "synthesis": SYNTHESIS, "variants": VARIANTS}
"""Sets of rows by name: that of the model card, what networks are trained on at three strengths,
and the simple models at more than one setting. ``haze:view=0`` is flat: the same all over."""


@dataclass(frozen=True)
class Row:
    """A way to degrade pictures.

    Args:
        text: its name, see ``parse_row``.
        source: the module that it comes from, ``synthesis`` or ``degradations``; of clean pictures
            ``none``.
        kinds: what is wrong with the pictures.
        sigma: of white Gaussian noise, if that is all and the row tells it.
        degrade: ``(image (3, H, W) in [0, 1], number of the picture) -> degraded``.
    """

    text: str
    source: str
    kinds: tuple[str, ...]
    sigma: float | None
    degrade: Callable[[Tensor, int], Tensor]


def parse_row(text: str) -> Row:
    """Read a row.

    Args:
        text: ``clean``: nothing is done to the pictures; ``haze@medium`` or ``haze,noise@0.5``:
            what networks are trained on, at a strength as for ``moceir.data.synthesis.at``;
            anything else as for ``moceir.data.degradations.parse``, such as ``haze:beta=2,rain``.
            After ``turned:`` image i is rotated by i quarter turns before and rotated back after,
            so that haze, otherwise thickest at the top, comes from any side.

    Raises:
        ValueError: none of these; the message lists what is valid.
    """
    if text == "clean":
        return Row(text, "none", (), None, lambda image, number: image.clone())
    inner = text.removeprefix("turned:")
    if "@" in inner:
        names, _, given = inner.rpartition("@")
        strength = given if given in STRENGTHS else _number(text, given)
        synthesis.at(names, strength, [0])  # raises
        kinds = tuple(name.strip() for name in names.split(","))
        row = Row(text, "synthesis", kinds, None, partial(_trained, names, strength))
    else:
        one = degradations.parse(inner)
        steps = one.steps if isinstance(one, Composition) else (one,)
        kinds = tuple(step.kind for step in steps if isinstance(step, Single))
        sigma = one.sigma if isinstance(one, GaussianNoise) else None
        row = Row(text, "degradations", kinds, sigma, partial(_simple, one))
    if inner == text:
        return row
    return Row(text, row.source, row.kinds, row.sigma, partial(_turned, row.degrade))


def _number(text: str, strength: str) -> float:
    try:
        return float(strength)
    except ValueError:
        raise ValueError(
            f"{text}: the strength must be {', '.join(STRENGTHS)} or a number from 0 to 1"
        ) from None


def _trained(names: str, strength: str | float, image: Tensor, number: int) -> Tensor:
    return synthesis.degrade(image[None], synthesis.at(names, strength, [number]))[0]


def _simple(degradation: Degradation, image: Tensor, number: int) -> Tensor:
    return degradations.degrade(image[None], degradation, seed=number)[0]


def _turned(degrade: Callable[[Tensor, int], Tensor], image: Tensor, number: int) -> Tensor:
    turned = torch.rot90(image, number, (1, 2)).contiguous()
    return torch.rot90(degrade(turned, number), -number, (1, 2)).contiguous()
