"""Tiles cover a picture, start where windows do, and leave no seams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moceir.errors import ConfigError
from moceir.inference import tiles


@given(
    length=st.integers(1, 5000),
    overlap=st.integers(0, 300),
    more=st.integers(0, 900),
)
@settings(max_examples=300, deadline=None)
def test_tiles_cover_overlap_and_start_at_multiples_of_128(
    length: int, overlap: int, more: int
) -> None:
    tile = tiles.STEP + overlap + more
    spans = tiles.plan(length, 1, tile, overlap).rows
    assert spans[0][0] == 0 and spans[-1][1] == length
    for start, end in spans:
        assert start % 128 == 0 and 0 < end - start <= tile
    for (_, end), (start, _) in pairwise(spans):
        assert end - start >= overlap
    total = torch.zeros(length)
    for (start, end), weight in zip(spans, tiles.weights(spans), strict=True):
        total[start:end] += weight
        assert weight.min() >= 0
    assert torch.allclose(total, torch.ones(length), atol=1e-6)


def test_borders_of_tiles_do_not_count() -> None:
    spans = ((0, 384), (256, 640))
    first, second = tiles.weights(spans)
    assert first[:256].min() == 1
    assert first[-32:].max() < 1e-5 and second[:32].max() < 1e-5


def stitched_rows(
    plan: tiles.TilePlan, results: Iterable[torch.Tensor]
) -> Iterator[tuple[slice, torch.Tensor]]:
    stitching = tiles.Stitching(plan)
    yield from (finished for result in results if (finished := stitching.add(result)) is not None)


@pytest.mark.parametrize("size", [(1, 1), (300, 700), (257, 256)])
@pytest.mark.parametrize(("tile", "overlap"), [(0, 64), (128, 0), (256, 64), (300, 130)])
def test_what_keeps_pixels_is_stitched_to_the_same_picture(
    size: tuple[int, int], tile: int, overlap: int
) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    stitched = torch.full_like(image, torch.nan)
    bottom = 0
    plan = tiles.plan(*size, tile, overlap)
    for rows, band in stitched_rows(plan, (image[..., r, c] for r, c in plan.tiles())):
        assert rows.start == bottom
        bottom = rows.stop
        stitched[..., rows, :] = band
    assert bottom == size[0]
    assert (stitched - image).abs().max() <= 1e-6


def test_tiles_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tile 100 is too small.*at least 192"):
        tiles.plan(500, 500, 100, 64)
    with pytest.raises(ConfigError, match="overlap -1"):
        tiles.plan(500, 500, 256, -1)


def test_tiles_that_differ_blend_smoothly() -> None:
    """Each tile has a level of its own: nowhere is there more of a step than a ramp needs."""
    plan = tiles.plan(640, 900, 384, 128)
    levels = torch.rand(20, generator=torch.Generator().manual_seed(0)).tolist()

    each = (
        torch.full((1, 1, rows.stop - rows.start, columns.stop - columns.start), levels.pop())
        for rows, columns in plan.tiles()
    )
    stitched = torch.cat([band for _, band in stitched_rows(plan, each)], dim=2)
    assert stitched.shape == (1, 1, 640, 900)
    # Over half of the 128 shared pixels, and two neighbours at a corner may add up.
    for axis in (2, 3):
        assert 0 < stitched.diff(dim=axis).abs().max() <= 2 / 64
