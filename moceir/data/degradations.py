"""Physically parametrised image degradations in plain PyTorch.

Images are floating-point NCHW RGB in [0, 1], sRGB-encoded, of any size from 1 x 1 up; results are
clamped to [0, 1] and keep shape, dtype and device. The arithmetic is done in float32 on the images'
device. Random numbers are drawn on the generator's device, so that a CPU generator gives the same
picture, up to rounding, on every device. What networks are trained on, a whole batch at once, is in
``moceir.data.synthesis``.

    >>> rainy = parse("haze:beta=1.5,rain")          # light haze, then default rain
    >>> degraded = degrade(images, rainy, seed=3)    # image i draws from generator_for(3, i)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moceir.data.kinds import (
    KINDS,
    SINGLES,
    DefocusBlur,
    Degradation,
    GaussianNoise,
    Haze,
    Jpeg,
    LowLight,
    MotionBlur,
    RainStreaks,
    Snow,
    check_images,
)
from moceir.errors import short
from moceir.files import check_free
from moceir.pictures import codec
from moceir.pictures.codec import Picture
from moceir.pictures.pixels import levels, to_image, to_rgb, to_tensor
from moceir.pictures.remote import Remote, place

__all__ = [
    "KINDS",
    "Composition",
    "DefocusBlur",
    "Degradation",
    "GaussianNoise",
    "Haze",
    "Jpeg",
    "LowLight",
    "MotionBlur",
    "RainStreaks",
    "Snow",
    "degrade",
    "degrade_file",
    "degrade_picture",
    "generator_for",
    "parse",
]


MAX_STEPS = 32
"""Degradations that one text may ask for."""


@dataclass(frozen=True)
class Composition(Degradation):
    """Several degradations one after the other.

    Args:
        steps: in order of application, at least one; compositions among them are flattened.

    Raises:
        TypeError: a step is not a degradation.
        ValueError: there is no step.
    """

    steps: tuple[Degradation, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a composition needs at least one degradation")
        flat: list[Degradation] = []
        for step in self.steps:
            if not isinstance(step, Degradation):
                raise TypeError(f"a composition is made of degradations, got {step!r}")
            flat.extend(step.steps if isinstance(step, Composition) else (step,))
        object.__setattr__(self, "steps", tuple(flat))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            images = step(images, generator)
        return images

    def __str__(self) -> str:
        """The text which ``parse`` turns back into this composition."""
        return ",".join(str(step) for step in self.steps)


def parse(text: str) -> Degradation:
    """Read a degradation from text such as ``rain,haze`` or ``noise:sigma=50,jpeg:quality=10``.

    Commas separate degradations, applied from left to right; colons separate a kind and its
    parameters. A parameter that is not given has its default.

    Returns:
        A ``Composition`` if there are several parts, else the one degradation.

    Raises:
        ValueError: unknown kind or parameter, or a value out of range; says what is valid.
    """
    parts = text.split(",")
    if len(parts) > MAX_STEPS:
        raise ValueError(f"{len(parts)} degradations of one image: give at most {MAX_STEPS}")
    steps = tuple(_parse_single(part.strip()) for part in parts)
    return steps[0] if len(steps) == 1 else Composition(steps)


def _parse_single(text: str) -> Degradation:
    kind, *assignments = (token.strip() for token in text.split(":"))
    if kind not in SINGLES:
        raise ValueError(f"unknown degradation {short(kind)}; valid: {', '.join(KINDS)}")
    names = [parameter.name for parameter in fields(SINGLES[kind])]
    values: dict[str, float] = {}
    for assignment in assignments:
        name, equals, value = (token.strip() for token in assignment.partition("="))
        if name not in names or not equals:
            raise ValueError(
                f"{kind}: expected NAME=VALUE with a name from {', '.join(names)}, "
                f"got {short(assignment)}"
            )
        if name in values:
            raise ValueError(f"{kind}: {name} is given twice")
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"{kind}: {name} must be a number, got {short(value)}") from None
    return SINGLES[kind](**values)


def degrade(
    images: Tensor,
    degradation: Degradation | Sequence[Degradation],
    seed: int,
    first: int = 0,
) -> Tensor:
    """Degrade a batch, image i with the randomness of ``generator_for(seed, first + i)``.

    What becomes of an image depends on its content, its place in the batch and the seed, never on
    the other images.

    Args:
        images: (B, 3, H, W), floating point, RGB in [0, 1].
        degradation: one for all images, or one for each.
        seed: any integer.
        first: number of the first image, where the batch is a part of a larger one.

    Returns:
        A new tensor like ``images``, in [0, 1].

    Raises:
        TypeError, ValueError: as ``Degradation.__call__``; or not one degradation per image.
    """
    check_images(images)
    each = (
        [degradation] * len(images) if isinstance(degradation, Degradation) else list(degradation)
    )
    if len(each) != len(images):
        raise ValueError(f"{len(images)} images need {len(images)} degradations, got {len(each)}")
    degraded = torch.empty_like(images)
    for i, one in enumerate(each):
        degraded[i : i + 1] = one(images[i : i + 1], generator_for(seed, first + i))
    return degraded


def generator_for(seed: int, index: int) -> torch.Generator:
    """A CPU generator for the image at ``index``, unrelated to those of other seeds and indices."""
    # The finaliser of SplitMix64, twice: torch's generator keeps 32 bits of a seed, and a sum of
    # the two numbers would give (1, 2) and (2, 1) the same picture.
    state = 0
    for number in (seed, index):
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def degrade_picture(
    picture: Picture, degradation: Degradation, seed: int, number: int = 0
) -> Picture:
    """``degrade`` for a decoded picture: another one, 8-bit RGB, with the same metadata."""
    clean = to_tensor(to_rgb(picture.pixels))[None]
    degraded = np.asarray(to_image(degrade(clean, degradation, seed, number)[0]))
    metadata, notes = picture.metadata, list(picture.notes)
    channels = picture.pixels.shape[2]
    if channels < 3:
        notes.append("greyscale became RGB")
        if metadata.icc or metadata.png_colour:
            notes.append("its colour profile, which is one for grey, was dropped")
            metadata = replace(metadata, icc=b"", png_colour={})
    if picture.pixels.dtype != np.uint8:
        notes.append("rounded to 8 bits")
    if channels in (2, 4) and (picture.pixels[..., -1] != levels(picture.pixels.dtype)).any():
        notes.append("its transparency was dropped")
    return replace(picture, pixels=degraded, metadata=metadata, notes=notes)


def degrade_file(
    source: Path | str | Remote,
    target: Path | str | Remote,
    degradation: Degradation | str,
    seed: int = 0,
    *,
    number: int = 0,
    overwrite: bool = False,
) -> list[str]:
    """Degrade an image file, keeping its metadata, date and permissions.

    The same seed and number give the same image.

    Args:
        source: an image in any format that can be read.
        target: the degraded image, in the format of its suffix.
        degradation: or a string for ``parse``, such as ``rain,haze`` or ``noise:sigma=50``.
        seed: any integer.
        number: of the image, where several have one seed.
        overwrite: replace an existing file.

    Returns:
        Notes, for people, on what could not be kept.

    Raises:
        ValueError: a string that ``parse`` rejects.
        PictureError: the source cannot be read, or the target's suffix is not an image format.
        FileExistsError: the target exists.
        OSError: the target cannot be written.
    """
    source, target = place(source), place(target)
    if isinstance(degradation, str):
        degradation = parse(degradation)
    if isinstance(target, Path):
        check_free(target, overwrite)
    degraded = degrade_picture(codec.read(source), degradation, seed, number)
    return [*degraded.notes, *codec.write(degraded, target, overwrite=overwrite)]
