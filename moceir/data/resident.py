"""Clean images kept as bytes in a device's memory, and training patches cut from them there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moceir.data.crops import places
from moceir.data.patches import PatchSource, Read
from moceir.data.samples import CleanPictures
from moceir.data.synthesis.stage import send
from moceir.pictures.codec import size_of
from moceir.pictures.images import rgb_pixels


def fit(paths: Sequence[Path], crop: int, megabytes: int) -> bool:
    """Whether all images fit in ``megabytes`` MiB as bytes, judged by their files' headers.

    Raises:
        PictureError: a file that is not an image.
    """
    room = megabytes * 2**20
    for path in paths:
        width, height = size_of(path)
        room -= 3 * max(width, crop) * max(height, crop)
        if room < 0:
            return False
    return True


class ResidentPatches(PatchSource):
    """Patches of clean pictures, whole batches of them cut on a device.

    All pictures are decoded when the first batch is cut, by as many threads as there are cores, and
    kept on its device.
    """

    def __init__(self, samples: CleanPictures, crop: int, seed: int) -> None:
        super().__init__(samples, crop, seed)
        self._stored: Tensor | None = None

    def read(self, numbers: Sequence[int]) -> Read:
        return Read(list(numbers))

    def _pixels(self, read: Read, device: torch.device) -> tuple[Tensor, None]:
        if self._stored is None or self._stored.device.type != device.type:
            self._store(device)
        return self._cut(read.numbers), None

    def _store(self, device: torch.device) -> None:
        def planes(index: int) -> Tensor:
            pair = self.samples[index]
            (pixels,) = self.samples.fitted(pair, [rgb_pixels(pair.clean)], self.crop)
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

        with ThreadPoolExecutor() as threads:
            pictures = list(threads.map(planes, range(len(self.samples))))
        self._sides = np.asarray([picture.shape[1:] for picture in pictures], dtype=np.int64)
        areas = 3 * self._sides.prod(1)
        self._starts = np.cumsum(areas) - areas
        self._stored = torch.empty(int(areas.sum()), dtype=torch.uint8, device=device)
        for start, picture in zip(self._starts.tolist(), pictures, strict=True):
            self._stored[start : start + picture.numel()] = picture.flatten()

    def _cut(self, numbers: Sequence[int]) -> Tensor:
        """(b, 3, crop, crop) uint8: one copy to the device and three kernels."""
        assert self._stored is not None
        place = places(self.seed, np.asarray(numbers))
        which = self.samples.take(self.seed, numbers)
        height, width = self._sides[which].T
        top, left = (
            (place[:, 1 + axis] * (side - self.crop + 1)).astype(np.int64)
            for axis, side in enumerate((height, width))
        )
        rows, columns = _orientations(self.crop, place[:, 3] < 0.5, (place[:, 4] * 4).astype(int))
        # The index of a pixel is a sum of one term for its row and one for its column.
        down = np.where(rows[0][:, None], width[:, None], 1) * rows[1]
        across = np.where(columns[0][:, None], width[:, None], 1) * columns[1]
        down = down + (self._starts[which] + top * width + left)[:, None]
        plane = np.arange(3) * (height * width)[:, None]
        device = self._stored.device
        of_row, of_column, of_plane = send([down, across, plane], device)
        index = of_row[:, None, :, None] + of_column[:, None, None, :]
        index = index + of_plane[:, :, None, None]
        return self._stored.index_select(0, index.flatten()).view(index.shape)


def _orientations(
    crop: int, flip: np.ndarray, turns: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Where the rows and the columns of flipped and turned squares come from, as ``cut`` does it.

    Returns:
        For the rows, then for the columns: whether they run along the rows of the square as it was,
        (b,) bool, and at which of its rows or columns each is, (b, crop).
    """
    forwards = np.arange(crop)
    backwards = forwards[::-1]

    def run(reverse: np.ndarray) -> np.ndarray:
        return np.where(reverse[:, None], backwards, forwards)

    upright = turns % 2 == 0
    # A quarter turn anticlockwise makes row y, column x of column crop - 1 - y, row x; the flip
    # before it reverses what were columns.
    rows = np.where(upright, turns == 2, (turns == 1) ^ flip)
    columns = np.where(upright, (turns == 2) ^ flip, turns == 3)
    return (upright, run(rows)), (~upright, run(columns))
