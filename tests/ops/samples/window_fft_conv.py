"""Samples of window_fft_conv."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from moce_kernels import window_fft_conv
from tests.ops.spec import Sample, activations

# Of fft_attention, too.
SHAPES = (
    ((1, 48, 32, 64), "channels_last"),  # whole windows, whole vectors
    ((2, 6, 37, 45), "channels_last"),
    ((2, 4, 9, 31), "sliced_last"),
    ((1, 33, 33, 40), "contiguous"),
)


def sample(shape: tuple[int, int, int, int], layout: str, window: int) -> Sample:
    q, k = activations(2, shape, layout)
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-window{window}",
        {"q": q, "k": k},
        lambda backend, **t: window_fft_conv(**t, window=window, backend=backend),
        lambda **t: (*t.values(), window),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for window in (4, 8, 16, 32):
        for shape, layout in (
            *SHAPES,
            ((1, 5, 33, 20), "contiguous"),
            ((2, 3, 34, 5), "expanded"),
            ((0, 8, 16, 16), "channels_last"),
        ):
            yield sample(shape, layout, window)


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 3, 5, 6), "contiguous", 4)
    yield sample((2, 2, 3, 9), "channels_last", 8)


def launched() -> Iterator[Sample]:
    yield sample((1, 48, 32, 32), "channels_last", 32)
    yield sample((1, 1, 1, 1), "contiguous", 4)


def timed(batch: int, side: int) -> Iterator[Sample]:
    for window in (4, 8, 16, 32):
        yield sample((batch, 48, side, side), "channels_last", window)
