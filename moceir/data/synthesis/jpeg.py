"""JPEG: files of all qualities, some of which were JPEG files before."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.data.counter import Draw
from moceir.data.jpeg import coding, jpeg
from moceir.data.synthesis.stage import Stage


def quality_of(scale: np.ndarray) -> np.ndarray:
    """(n,) the quality at which libjpeg's tables are scaled by so many per cent, rounded."""
    return np.rint(np.where(scale < 100, (200 - scale) / 2, 5000 / scale))


def plan(members: np.ndarray, draw: Draw, size: tuple[int, int]) -> Stage:
    """JPEG for n members of a batch of H x W.

    The strength is libjpeg's scale of the tables, 10 to 625 %: quality 95 to 8. 6 of 10 have the
    colours of 2 x 2 pixels in one (4:2:0), the others do not (4:4:4). 3 of 10 were in a JPEG file
    before, with 4:2:0, half of these on another grid of blocks, half at a smaller size, down to 0.6
    for the strongest.
    """
    scale = draw.strong(10, 625)
    coarse = draw.happens(0.6)
    twice = draw.happens(0.3)
    first = 10 * (scale / 10) ** draw.uniform(0.2, 1)
    resized = draw.happens(0.5)
    zoom = np.where(resized, 1 - 0.4 * draw.strength * draw.uniform(), 1)
    shift = np.where(resized[:, None], 0, np.floor(draw.uniform(0, 8, 2)))
    # So that those with few colours are the first, and those coded twice are together.
    order = np.argsort(np.where(coarse, twice, 3 - twice), kind="stable")
    n, before = int(coarse.sum()), int((coarse & ~twice).sum())
    again = order[before : before + int(twice.sum())]
    arrays = {f"now_{k}": a for k, a in coding(quality_of(scale)[order], n, size).items()}
    if len(again):
        # Pixel i is at zoom x i + shift in the earlier picture, which is larger by the most shift.
        larger = (-(-(size[0] + 7) // 16) * 16, -(-(size[1] + 7) // 16) * 16)  # whole blocks
        for axis, name in enumerate(("rows", "columns")):
            move, factor = shift[again, axis, None], zoom[again, None]
            there = factor * np.arange(size[axis]) + move
            back = (np.arange(larger[axis]) - move) / factor
            arrays[f"to_{name}"] = _grid(back, size[axis])
            arrays[f"from_{name}"] = _grid(there, larger[axis])
        earlier = coding(quality_of(first)[again], len(again), larger)
        arrays |= {f"earlier_{k}": a for k, a in earlier.items()}
    return Stage(members[order], partial(files, coarse=n, first=before), arrays)


def _grid(places: np.ndarray, side: int) -> np.ndarray:
    """Coordinates of pixels for ``grid_sample``: -1 and 1 are the outer edges of those at the
    border."""
    return ((places + 0.5) * (2 / side) - 1).astype(np.float32)


def files(images: Tensor, coarse: int, first: int, **given: Tensor) -> Tensor:
    """Code all images; before, where there are ``earlier_`` values, those from ``first`` on.

    Args:
        images: (n, 3, H, W) float32 in [0, 1]; overwritten.
        coarse: how many of the images, from the first on, now have 4:2:0 chroma.
        first: number of the first image that was in a file before.
        given: ``now_`` and ``earlier_`` what ``coding`` returns; ``to_rows``, ``to_columns``,
            ``from_rows`` and ``from_columns``, (m, side), where to sample the images for the
            earlier ones, and the earlier ones for the present.
    """

    def coding_of(when: str) -> dict[str, Tensor]:
        return {name: given[f"{when}_{name}"] for name in ("steps", "table")}

    rgb = images.mul_(255).round_()
    if "to_rows" in given:
        m = len(given["to_rows"])
        earlier = _sample(rgb[first : first + m], given["to_rows"], given["to_columns"])
        earlier = jpeg(earlier.round_(), m, **coding_of("earlier"))
        now = _sample(earlier, given["from_rows"], given["from_columns"])
        torch.round(now, out=rgb[first : first + m])
    return jpeg(rgb, coarse, **coding_of("now")).div_(255)


def _sample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples at rows (n, h) and columns (n, w), the borders repeated."""
    places = torch.broadcast_tensors(columns[:, None, :], rows[:, :, None])
    grid = torch.stack(places, dim=3)
    return F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
