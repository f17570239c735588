"""Samples of depthwise_conv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from moce_kernels import depthwise_conv
from tests.ops.spec import Sample, activations


def sample(shape: tuple[int, int, int, int], layout: str, kernel: int, bias: bool = True) -> Sample:
    (x,) = activations(1, shape, layout)
    tensors = {"x": x, "weight": torch.randn(shape[1], 1, kernel, kernel) / kernel}
    if bias:
        tensors["bias"] = torch.randn(shape[1])
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-kernel{kernel}{'' if bias else '-no_bias'}",
        tensors,
        lambda backend, **t: depthwise_conv(**t, backend=backend),
        lambda x, weight, bias=None: (x, weight, bias, False),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for kernel in (3, 7):
        for shape, layout in (
            ((2, 48, 35, 70), "channels_last"),  # several tiles, whole vectors
            ((2, 6, 17, 45), "channels_last"),
            ((1, 37, 9, 31), "sliced_last"),
            ((1, 20, 18, 66), "contiguous"),
            ((2, 2, 20, 35), "sliced"),
            ((2, 12, 5, 3), "expanded"),
            ((1, 36, 3, 37), "channels_last"),  # several blocks of columns and of channels
            ((1, 2, 67, 19), "channels_last"),  # many strips of rows
            ((1, 1, 1, 1), "contiguous"),
            ((3, 64, 1, 2), "channels_last"),
            ((0, 8, 16, 16), "channels_last"),
            ((1, 160, 9, 17), "channels_last"),  # more channels than threads; one column too many
            ((2, 20, 19, 24), "sliced_last"),  # pairs of channels that lie across 32-bit words
            ((2, 1, 23, 13), "channels_last"),
            ((1, 130, 3, 9), "contiguous"),
        ):
            yield sample(shape, layout, kernel)
        yield sample((1, 5, 8, 9), "channels_last", kernel, bias=False)


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 3, 5, 6), "contiguous", 3)
    yield sample((2, 2, 3, 4), "channels_last", 7, bias=False)


def launched() -> Iterator[Sample]:
    for kernel in (3, 7):
        yield sample((1, 48, 32, 32), "channels_last", kernel)
    yield sample((1, 1, 1, 1), "contiguous", 3)


def timed(batch: int, side: int) -> Iterator[Sample]:
    for channels in (48, 128):
        for kernel in (3, 7):
            large = sample((batch, channels, side, side), "channels_last", kernel)
            yield replace(large, master=frozenset({"weight", "bias"}))
