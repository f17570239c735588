"""What may be asked of a restoration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypedDict

from moceir.errors import ConfigError, short
from moceir.inference import tiles

FOUND = "found"
"""``only``: what is found in the image."""


class Settings(TypedDict, total=False):
    """How to restore an image: keyword arguments, all of them optional."""

    tile: int | None
    """Tile side in pixels, at least 128 more than the overlap. 0: the whole image or an error.
    None: the whole image if memory allows, otherwise the largest tiles that fit."""
    tile_overlap: int
    """Minimum number of pixels shared by neighbouring tiles. Default: 64."""
    strength: float
    """Blend between the original (0) and the fully restored image (1, the default)."""
    light: float | None
    """The same for changes of light and colour alone, such as brightening and the removal of haze.
    None: ``strength``."""
    detail: float | None
    """The same for changes of detail alone, such as the removal of noise, rain and blur. None:
    ``strength``."""
    only: str | Sequence[str] | None
    """The degradations to remove, some of ``moceir.data.kinds.KINDS``, also as a string with
    commas; others stay. ``found``: those that the image is found to have; one without any stays as
    it is. None: whatever is found by the specialists, or whatever one network changes."""


class Wanted(NamedTuple):
    """Settings, checked and complete."""

    tile: int | None
    tile_overlap: int
    light: float
    detail: float
    only: tuple[str, ...] | None
    """None: everything."""
    found: bool
    """Whether what is to be removed is to be found first."""

    @property
    def blend(self) -> float:
        """The strength at which a canvas blends by itself."""
        return 1.0 if self.is_selective else self.light

    @property
    def is_selective(self) -> bool:
        """Whether more is asked for than to blend the original and the restored image."""
        return self.found or self.only is not None or self.light != self.detail


def check(settings: Settings) -> Wanted:
    """
    Raises:
        ConfigError: a value out of range, or an unknown kind of degradation.
        TypeError: an unknown setting.
    """
    unknown = set(settings) - set(Settings.__annotations__)
    if unknown:
        known = ", ".join(Settings.__annotations__)
        raise TypeError(f"unknown setting {min(unknown)!r}: there are {known}")
    tile, overlap = settings.get("tile"), settings.get("tile_overlap", tiles.OVERLAP)
    for name, side in (("tile", tile), ("tile_overlap", overlap)):
        if side is not None and not isinstance(side, Integral):
            raise ConfigError(f"{name} {short(side)}: give a whole number of pixels", name)
    tiles.check(tile or 0, overlap)
    strength = _strength("strength", settings.get("strength", 1.0))
    light, detail = (
        strength if (value := settings.get(name)) is None else _strength(name, value)
        for name in ("light", "detail")
    )
    only = settings.get("only")
    found = isinstance(only, str) and only.strip() == FOUND
    kinds = None if only is None or found else _kinds(only)
    return Wanted(tile, overlap, light, detail, kinds, found)


def _strength(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"{name} {short(value)}: give 0 (as it was) to 1 (fully restored)", name)
    return number


def _kinds(only: Any) -> tuple[str, ...]:
    from moceir.data.kinds import KINDS  # with torch, which commands load when they need it

    some = f"give some of {', '.join(KINDS)}"
    if isinstance(only, str):
        only = only.split(",")
    elif not isinstance(only, Iterable):
        raise ConfigError(f"only: {short(only)}: {some}, or {FOUND}", "only")
    kinds = tuple(dict.fromkeys(name for each in only if (name := str(each).strip())))
    if not kinds:
        raise ConfigError(f"only: no degradation is named: {some}, or {FOUND}", "only")
    if FOUND in kinds:
        raise ConfigError(
            f"only: {FOUND} stands alone, as a string: give that, or {some[5:]}", "only"
        )
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(
                f"only: unknown degradation {short(kind)}: {some}, or {FOUND}", "only"
            )
    return kinds
