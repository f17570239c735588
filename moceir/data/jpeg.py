"""Baseline JPEG for a batch of images, each with its own quantisation tables."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, tables K.1 and K.2
LUMA_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
_TABLES = np.asarray([LUMA_TABLE, CHROMA_TABLE])


def _steps(quality: np.ndarray) -> np.ndarray:
    """(n, 2, 64): libjpeg's luma and chroma tables at (n,) integer qualities, 1 to 100."""
    quality = np.asarray(quality).astype(np.int64)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = (_TABLES * scale[:, None, None] + 50) // 100
    return np.clip(steps, 1, 255)


def coding(quality: np.ndarray, coarse: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What ``jpeg`` needs in addition to images of H x W.

    Args:
        quality: (n,) integers from 1 to 100.
        coarse: how many of the images, from the first on, have 4:2:0 chroma; the rest: 4:4:4.
        size: H, W.

    Returns:
        ``steps``, (2 n, 128) float32: of each table what eighths of coefficients are multiplied
        with before they are rounded, and after; and ``table``, int64, which one a block has.
    """
    n = len(quality)
    steps = _steps(quality).reshape(2 * n, 64)
    height, width = (-(-side // 16) * 2 for side in size)  # blocks
    counts = np.full((2, n), height * width)
    counts[1] *= 2  # two planes of chroma
    counts[1, :coarse] //= 4
    # Blocks of luma come first, then those of chroma.
    table = 2 * np.arange(n) + np.arange(2)[:, None]
    # libjpeg rounds halves away from zero: a millionth moves them there, and nothing else to a
    # half.
    factor = (0.125 + 0.125e-6) / steps
    return {
        "steps": np.concatenate((factor, steps), axis=1).astype(np.float32),
        "table": np.repeat(table.ravel(), counts.ravel()),
    }


class _Constants(NamedTuple):
    luma: Tensor
    """(1, 3, 1, 1) luma of RGB: ITU-R BT.601, full range, as JFIF has it."""
    chroma: Tensor
    """(1, 2, 1, 1) Cr of R - Y, Cb of B - Y."""
    back: Tensor
    """(1, 2, 1, 1) R - Y of Cr, B - Y of Cb."""
    green: Tensor
    """(1, 2, 1, 1) Y - G of Cr and Cb."""
    dct: Tensor
    """(64, 64) from the pixels of a block, in rows, to eighths of its coefficients."""
    inverse: Tensor
    """(64, 64) and back, from coefficients."""


@cache
def _constants(device: torch.device) -> _Constants:
    red, green, blue = 0.299, 0.587, 0.114
    back = np.asarray([2 * (1 - red), 2 * (1 - blue)])
    frequency, position = np.arange(8)[:, None], np.arange(8)
    dct = 0.5 * np.cos(np.pi / 8 * frequency * (position + 0.5))
    dct[0] /= 2**0.5
    both = np.kron(dct, dct)
    values = (
        np.asarray([red, green, blue]),
        1 / back,
        back,
        np.asarray([red, blue]) / green * back,
    )
    colours = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in values)
    matrices = (torch.tensor(m, dtype=torch.float32) for m in (8 * both.T, both))
    return _Constants(*(tensor.to(device) for tensor in (*colours, *matrices)))


@lru_cache(maxsize=8)
def _bias(count: int, device: torch.device) -> Tensor:
    """libjpeg's integer mean rounds halves down and up in turn, so that the chroma won't drift."""
    return torch.arange(count, device=device) % 2 * 0.25 + 0.25


def jpeg(rgb: Tensor, coarse: int, steps: Tensor, table: Tensor) -> Tensor:
    """Images after a round trip through a JPEG file.

    The arithmetic of libjpeg and its decoder's smooth chroma upsampling, without the entropy
    coding, which loses nothing.

    Args:
        rgb: (n, 3, H, W) float32, whole numbers from 0 to 255.
        coarse: how many of the images, from the first on, have 4:2:0 chroma; the rest: 4:4:4.
        steps, table: see ``coding``.

    Returns:
        A new tensor of the same kind.
    """
    n, _, height, width = rgb.shape
    constant = _constants(rgb.device)
    luma = (rgb * constant.luma).sum(1, keepdim=True)
    chroma = (rgb[:, ::2] - luma).mul_(constant.chroma)
    pad = (0, -width % 16, 0, -height % 16)
    if any(pad):
        luma, chroma = (F.pad(plane, pad, mode="replicate") for plane in (luma, chroma))
    columns = luma.shape[3]

    planes = [luma.sub_(128)]
    if coarse:
        half = F.avg_pool2d(chroma[:coarse].round_(), 2)
        planes.append(half.add_(_bias(columns // 2, rgb.device)).floor_())
    if coarse < n:
        planes.append(chroma[coarse:])
    sizes = [plane.numel() // 64 for plane in planes]
    blocks = rgb.new_empty(len(table), 64)
    for plane, part in zip(planes, blocks.split(sizes), strict=True):
        torch.round(_blocked(plane), out=part.view(_blocked(plane).shape))

    step = steps.index_select(0, table)
    # Eighths are the precision of libjpeg's transform.
    levels = (blocks @ constant.dct).round_().mul_(step[:, :64]).round_()
    decoded = levels.mul_(step[:, 64:]) @ constant.inverse
    decoded = decoded.round_().clamp_(-128, 127)
    for plane, part in zip(planes, decoded.split(sizes), strict=True):
        _blocked(plane).copy_(part.view(_blocked(plane).shape))

    luma, chroma = luma.add_(128)[..., :height, :width], chroma[..., :height, :width]
    if coarse:
        # The decoder sees only the cropped chroma, and repeats its last row and column.
        half = half[..., : (height + 1) // 2, : (width + 1) // 2]
        full = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
        torch.round(full[..., :height, :width], out=chroma[:coarse])
    out = torch.empty_like(rgb)
    torch.addcmul(luma, chroma, constant.back, out=out[:, ::2])
    torch.sub(luma, (chroma * constant.green).sum(1, keepdim=True), out=out[:, 1:2])
    return out.round_().clamp_(0, 255)


def _blocked(planes: Tensor) -> Tensor:
    """(n, c, H, W), H and W multiples of 8, as (n, c, H / 8, W / 8, 8, 8), a view."""
    n, c, height, width = planes.shape
    return planes.view(n, c, height // 8, 8, width // 8, 8).transpose(3, 4)
