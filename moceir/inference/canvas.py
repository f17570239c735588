"""The image being restored: parts of it as network input, and finished rows of the result."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from moceir.pictures.pixels import LUMA, levels, without_hidden

Progress = Callable[[int, int], None]
"""``(done, tiles)``: how many tiles are done, and their number."""


class Canvas(Protocol):
    """B images of one size, before and after."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Images, height, width."""

    @property
    def is_grey(self) -> bool:
        """Whether the three channels of a part are equal, and those of a result are averaged."""

    def image(self, index: int) -> Canvas:
        """A view of one of the images; what is put there is put here."""

    def check(self) -> None:
        """Raises ValueError for values outside [0, 1]. Reads from a GPU, so it is called after its
        work is done."""

    def part(self, rows: slice, columns: slice) -> Tensor:
        """(B, 3, h, w) in [0, 1]."""

    def put(self, rows: slice, result: Tensor) -> None:
        """Takes finished rows: (B, 3, h, width), float32 on the CPU, not clamped."""

    def progress(self, done: int, tiles: int) -> None:
        """Called before each tile; what it raises ends the restoration."""


class PixelCanvas:
    """Pixels of any depth.

    Args:
        pixels: (B, H, W, C) uint8, uint16, or float32 in [0, 1]; C is 1 (grey), 2 (grey and alpha),
            3 (RGB) or 4 (RGB and alpha). Alpha is copied, as are the colours of pixels that are
            wholly transparent, of which the network sees nothing.
        strength: from 0, the pixels as they are, to 1, fully restored.
        progress: called before each tile with how many are done, and their number.

    Raises:
        ValueError: float32 values out of [0, 1], or another shape or dtype.
    """

    def __init__(
        self, pixels: np.ndarray, strength: float, progress: Progress | None = None
    ) -> None:
        if pixels.dtype not in ("uint8", "uint16", "float32"):
            raise ValueError(f"array of dtype {pixels.dtype}: give uint8, uint16 or float32")
        if pixels.ndim != 4 or 0 in pixels.shape[1:] or pixels.shape[3] > 4:
            raise ValueError(
                f"images of shape {pixels.shape[1:]}: give (H, W, C), none of them 0 and C from "
                "1 to 4"
            )
        if pixels.dtype == "float32" and len(pixels):
            _check_range(float(pixels.min()), float(pixels.max()), ".clip(0, 1)")
        self.restored = pixels.copy()
        """Likewise (B, H, W, C), of the same dtype; as it was where nothing has been put."""
        self._pixels, self._strength = without_hidden(pixels), strength
        self._progress = progress
        self._colours = slice(0, 3 if pixels.shape[3] >= 3 else 1)
        self._white = np.float32(levels(pixels.dtype))

    @property
    def size(self) -> tuple[int, int, int]:
        batch, height, width, _ = self._pixels.shape
        return batch, height, width

    @property
    def is_grey(self) -> bool:
        return self._colours.stop == 1

    def image(self, index: int) -> PixelCanvas:
        one, only = copy.copy(self), slice(index, index + 1)
        one._pixels, one.restored = self._pixels[only], self.restored[only]
        return one

    def check(self) -> None:
        """Already done when the canvas was created."""

    def progress(self, done: int, tiles: int) -> None:
        if self._progress:
            self._progress(done, tiles)

    def _original(self, rows: slice, columns: slice) -> Tensor:
        part = self._pixels[:, rows, columns, self._colours].astype(np.float32) / self._white
        return torch.from_numpy(part).permute(0, 3, 1, 2)

    def part(self, rows: slice, columns: slice) -> Tensor:
        return self._original(rows, columns).expand(-1, 3, -1, -1)

    def put(self, rows: slice, result: Tensor) -> None:
        result = result.clamp(0, 1)
        if self.is_grey:
            result = grey(result)
        if self._strength != 1:
            result = self._original(rows, slice(None)).lerp(result, self._strength)
        values = result.permute(0, 2, 3, 1).numpy()
        if self._white != 1:
            values = np.rint(values * self._white)
        restored = self.restored[:, rows]
        if restored.shape[3] in (2, 4):
            hidden = restored[..., -1:] == 0
            values = np.where(hidden, restored[..., self._colours], values)
        restored[..., self._colours] = values.astype(restored.dtype)


class TensorCanvas:
    """Tensors, on any device and of any floating point dtype.

    Args:
        images: (B, 3, H, W) in [0, 1].
        strength: as in ``PixelCanvas``.

    Raises:
        ValueError: another shape or dtype; values outside [0, 1], on a GPU only from ``check``.
    """

    def __init__(self, images: Tensor, strength: float) -> None:
        if not images.is_floating_point():
            raise ValueError(f"tensor of dtype {images.dtype}: give floating point in [0, 1]")
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise ValueError(f"tensor of shape {tuple(images.shape)}: give (B, 3, H, W), RGB")
        self.restored = images.detach().clone()
        """Likewise (B, 3, H, W); as it was where nothing has been put."""
        self._images, self._strength = images.detach(), strength
        self._range = images.detach().aminmax() if len(images) else None
        if images.device.type == "cpu":
            self.check()

    @property
    def size(self) -> tuple[int, int, int]:
        batch, _, height, width = self._images.shape
        return batch, height, width

    @property
    def is_grey(self) -> bool:
        return False

    def image(self, index: int) -> TensorCanvas:
        one, only = copy.copy(self), slice(index, index + 1)
        one._images, one.restored = self._images[only], self.restored[only]
        return one

    def check(self) -> None:
        if self._range is not None:
            low, high = self._range
            _check_range(low.item(), high.item(), ".clamp(0, 1)")
            self._range = None

    def progress(self, done: int, tiles: int) -> None:
        """Nobody is told."""

    def part(self, rows: slice, columns: slice) -> Tensor:
        return self._images[..., rows, columns]

    def put(self, rows: slice, result: Tensor) -> None:
        part = self.restored[..., rows, :]
        part.copy_(result.clamp(0, 1))
        if self._strength != 1:
            part.copy_(self._images[..., rows, :].lerp(part, self._strength))


def grey(images: Tensor) -> Tensor:
    """(B, 3, h, w) to (B, 1, h, w), on the CPU."""
    return torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA))[:, None]


def _check_range(low: float, high: float, remedy: str) -> None:
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(
            "the image contains NaN values: check where they come from"
            if math.isnan(low) or math.isnan(high)
            else f"the image has values from {low:g} to {high:g}: scale them to [0, 1], as with "
            f"{remedy}"
        )
