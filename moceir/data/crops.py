"""Decoded pictures, and squares that are cut out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from moceir.data.counter import states, uniforms
from moceir.pictures.images import rgb_pixels


class PixelCache:
    """Decoded pictures, kept as (H, W, 3) uint8 until they fill ``megabytes``.

    Training draws pictures evenly at random, so that none is worth more than another: what came
    first stays, and nothing is dropped.
    """

    def __init__(self, megabytes: int) -> None:
        self._room = megabytes * 2**20
        self._pixels: dict[Path, np.ndarray] = {}

    def __getitem__(self, path: Path) -> np.ndarray:
        """The pixels of a picture.

        Raises:
            PictureError: it cannot be read.
        """
        if path in self._pixels:
            return self._pixels[path]
        pixels = rgb_pixels(path)
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._pixels[path] = pixels
        return pixels


def places(seed: int, numbers: np.ndarray) -> np.ndarray:
    """(b, 5) in [0, 1): of each of the patches ``numbers``, the picture and the place in it.

    Functions of the seed and the number alone; ``cut`` says what the last four are.
    """
    return uniforms(states(seed, numbers), 0, 5)


def at_least(pixels: np.ndarray, crop: int) -> np.ndarray:
    """(H, W, 3) pixels, reflected at their lower and right edge where a side is below ``crop``."""
    missing = [(0, max(0, crop - side)) for side in pixels.shape[:2]]
    if any(after for _, after in missing):
        return np.pad(pixels, [*missing, (0, 0)], mode="symmetric")
    return pixels


def cut(pictures: Sequence[np.ndarray], crop: int, place: Sequence[float]) -> np.ndarray:
    """The same square of pictures of one size, flipped and turned together.

    pictures: n of (H, W, 3). place: four numbers in [0, 1): how far down and to the right the
    square is, whether it is flipped, and its quarter turns. Returns (n, 3, crop, crop), contiguous.
    """
    height, width = pictures[0].shape[:2]
    top, left = int(place[0] * (height - crop + 1)), int(place[1] * (width - crop + 1))
    flip, turns = place[2] < 0.5, int(place[3] * 4)
    patches = []
    for pixels in pictures:
        patch = pixels[top : top + crop, left : left + crop]
        patch = np.rot90(patch[:, ::-1] if flip else patch, turns)
        patches.append(patch.transpose(2, 0, 1))
    return np.stack(patches)


def middle(image: Image.Image, side: int | None) -> Image.Image:
    """The centre ``side`` x ``side`` pixels, or fewer in a smaller image; None: the whole image."""
    if side is None:
        return image
    width, height = min(side, image.width), min(side, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
