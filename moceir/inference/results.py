"""Restored images, and how they were restored."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from PIL import Image


class Run(NamedTuple):
    """How an image was restored."""

    tile: int
    """Side of the tiles in pixels; 0: the whole image at once."""
    tile_overlap: int
    """Pixels that neighbouring tiles share at least; 0 without tiles."""
    tile_experts: tuple[tuple[int, ...], ...]
    """For each tile, the expert, 1 the cheapest, that each decoder block took (the best, if
    several). Of several specialists it is the last one's; empty if none was needed."""
    notes: tuple[str, ...]
    """What a user should know: that tiles were needed, or smaller ones than asked for, or another
    precision."""
    found: tuple[str, ...] | None = None
    """The kinds of degradation that were found in the image, by the specialists or, if ``only`` was
    ``found``, beside one network; None if it was not looked for them. Without any
    the image stays as it was."""

    @property
    def experts(self) -> tuple[int, ...]:
        """The expert chosen in each decoder block; with tiles, the most frequent choice."""
        blocks = zip(*self.tile_experts, strict=True)
        return tuple(Counter(block).most_common(1)[0][0] for block in blocks)


class Restored(NamedTuple):
    """A restored image and how it was restored."""

    image: Image.Image
    experts: tuple[int, ...]
    """The expert, 1 the cheapest, that each decoder block took (the best, if several); with
    tiles, the one that most of them took."""
    run: Run


def said(found: tuple[str, ...]) -> str:
    """What was found in an image, for people."""
    names = ", ".join(kind.replace("_", " ") for kind in found)
    return f"found: {names}" if found else "found nothing to remove: left as it is"
