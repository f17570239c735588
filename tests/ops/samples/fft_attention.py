"""Samples of fft_attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from moce_kernels import fft_attention
from tests.ops.samples.window_fft_conv import SHAPES
from tests.ops.spec import Sample, activations


def sample(shape: tuple[int, int, int, int], layout: str, window: int, eps: float = 1e-5) -> Sample:
    q, k, v = activations(3, shape, layout)
    weight, bias = 1 + 0.1 * torch.randn(shape[1]), 0.1 * torch.randn(shape[1])
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-window{window}",
        {"q": q, "k": k, "v": v, "weight": weight, "bias": bias},
        lambda backend, **t: fft_attention(**t, window=window, eps=eps, backend=backend),
        lambda **t: (*t.values(), window, eps),
        frozenset({"weight", "bias"}),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for window in (4, 8, 16, 32):
        for shape, layout in (
            *SHAPES,
            ((2, 16, 20, 35), "sliced"),
            ((2, 11, 34, 5), "expanded"),
            ((1, 1, 1, 1), "contiguous"),
            ((0, 8, 16, 16), "channels_last"),
        ):
            yield sample(shape, layout, window)


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 3, 5, 6), "contiguous", 4)
    yield sample((2, 2, 3, 9), "channels_last", 8)


def launched() -> Iterator[Sample]:
    yield sample((1, 48, 32, 32), "channels_last", 8)
    yield sample((1, 16, 32, 32), "channels_last", 8)
    yield sample((1, 1, 1, 1), "contiguous", 4)


def timed(batch: int, side: int) -> Iterator[Sample]:
    for window in (4, 8, 16, 32):
        yield sample((batch, 48, side, side), "channels_last", window)
