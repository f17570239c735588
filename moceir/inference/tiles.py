"""Splitting a large image into overlapping tiles, and blending their results without seams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from moceir.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

STEP = 128
"""Tiles start at multiples of this: the windows of the experts' FFT attention, up to 32 x 32 at a
quarter of the resolution, then lie where they lie in the whole picture."""

OVERLAP = 64
"""Default minimum number of pixels that neighbouring tiles share."""


class TilePlan(NamedTuple):
    """The rows and columns that tiles cover; each pair of the two is a tile."""

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]

    @property
    def number(self) -> int:
        return len(self.rows) * len(self.columns)

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each tile, row by row."""
        for rows in self.rows:
            for columns in self.columns:
                yield slice(*rows), slice(*columns)


def check(tile: int, overlap: int) -> None:
    """Raises ConfigError if tiles of that size cannot start at multiples of 128 and overlap."""
    if overlap < 0:
        raise ConfigError(f"tile overlap {overlap}: give 0 or more pixels", "tile_overlap")
    if tile != 0 and tile < STEP + overlap:
        raise ConfigError(
            f"tile {tile} is too small: give 0 for the whole image, or {STEP} more than the "
            f"overlap of {overlap}, so at least {STEP + overlap}",
            "tile",
        )


def plan(height: int, width: int, tile: int, overlap: int) -> TilePlan:
    """Tiles of at most ``tile`` x ``tile`` that cover a picture; 0: one for the whole.

    Raises:
        ConfigError: see ``check``.
    """
    check(tile, overlap)
    if tile == 0:
        return TilePlan(((0, height),), ((0, width),))
    return TilePlan(_spans(height, tile, overlap), _spans(width, tile, overlap))


def _spans(length: int, tile: int, overlap: int) -> tuple[tuple[int, int], ...]:
    if length <= tile:
        return ((0, length),)
    stride = (tile - overlap) // STEP  # these three in units of STEP
    last = -(-(length - tile) // STEP)
    gaps = -(-last // stride)
    starts = [last * i // gaps * STEP for i in range(gaps + 1)]
    return tuple((start, min(start + tile, length)) for start in starts)


def weights(spans: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """For each span (n,) float32 weights of its pixels; those of one pixel add up to 1.

    A tile's weight rises from zero at its inner edges, where it lacks context, to one where its
    neighbour ends.
    """
    import torch  # here: whoever only plans needs none

    length = spans[-1][1]
    total = torch.zeros(length, dtype=torch.float64)
    ramps = []
    for i, (start, end) in enumerate(spans):
        position = torch.arange(start, end, dtype=torch.float64) + 0.5
        ramp = torch.ones(end - start, dtype=torch.float64)
        if i > 0:
            ramp = torch.minimum(ramp, _rise(position - start, spans[i - 1][1] - start))
        if i + 1 < len(spans):
            ramp = torch.minimum(ramp, _rise(end - position, end - spans[i + 1][0]))
        total[start:end] += ramp
        ramps.append(ramp)
    return [
        (ramp / total[start:end]).float() for ramp, (start, end) in zip(ramps, spans, strict=True)
    ]


def _rise(distance: Tensor, overlap: int) -> Tensor:
    """0 to 1 over an overlap, without its outermost quarters, where borders have most effect."""
    if overlap <= 0:
        return distance.new_ones(distance.shape)
    # Never quite 0: where three tiles meet, some pixel might otherwise have no weight at all.
    return ((distance / overlap - 0.25) * 2).clamp(1e-6, 1)


class Stitching:
    """Blends the results of a plan's tiles, given in its order, into rows of the whole image."""

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self._weights = weights(plan.rows), weights(plan.columns)
        self._done = 0
        self._band: Tensor | None = None
        """(B, 3, h, width), the rows of the tiles that are under way."""

    def add(self, result: Tensor) -> tuple[slice, Tensor] | None:
        """Takes the next tile's result (B, 3, h, w), float32 on the CPU.

        Returns rows and their result (B, 3, rows, width) if it has finished some.
        """
        rows, columns = self._plan.rows, self._plan.columns
        i, j = divmod(self._done, len(columns))
        self._done += 1
        top, bottom = rows[i]
        if self._plan.number == 1:
            return slice(top, bottom), result
        started = self._band if j == 0 else None  # rows that tiles above have added to
        if j == 0:
            self._band = result.new_zeros(*result.shape[:2], bottom - top, columns[-1][1])
            if started is not None:
                self._band[:, :, : started.shape[2]] = started
        band = self._band
        assert band is not None  # the first tile of its rows has made it
        left, right = columns[j]
        of_row, of_column = (w[at] for w, at in zip(self._weights, (i, j), strict=True))
        band[..., left:right] += result * (of_row[:, None] * of_column)
        if j + 1 < len(columns):
            return None
        end = rows[i + 1][0] if i + 1 < len(rows) else bottom
        self._band = band[:, :, end - top :]
        return slice(top, end), band[:, :, : end - top]


def half(size: int, overlap: int) -> int | None:
    """Half the tile size, in whole steps; None if that is too small."""
    half = size // 2 // STEP * STEP
    return half if half >= STEP + overlap else None
