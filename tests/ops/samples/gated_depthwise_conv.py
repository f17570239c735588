"""Samples of gated_depthwise_conv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from moce_kernels import gated_depthwise_conv
from tests.ops.samples.depthwise_conv import sample as depthwise_sample
from tests.ops.spec import Sample


def sample(shape: tuple[int, int, int, int], layout: str, bias: bool = True) -> Sample:
    """What depthwise_conv takes with a kernel of 3."""
    return replace(
        depthwise_sample(shape, layout, 3, bias),
        name=f"{'x'.join(map(str, shape))}-{layout}{'' if bias else '-no_bias'}",
        call=lambda backend, **t: gated_depthwise_conv(**t, backend=backend),
        raw=lambda x, weight, bias=None: (x, weight, bias),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for shape, layout in (
        ((2, 48, 35, 70), "channels_last"),  # several tiles
        ((2, 6, 17, 45), "channels_last"),
        ((1, 74, 9, 31), "sliced_last"),
        ((1, 20, 18, 66), "contiguous"),
        ((2, 24, 33, 35), "sliced"),
        ((2, 12, 5, 3), "expanded"),
        ((1, 40, 3, 37), "channels_last"),  # several blocks of columns and of channels
        ((1, 2, 1, 1), "contiguous"),
        ((3, 64, 1, 2), "channels_last"),
        ((2, 10, 13, 11), "sliced_last"),
        ((1, 6, 12, 17), "sliced"),
        ((0, 8, 16, 16), "channels_last"),
        ((1, 320, 9, 13), "channels_last"),  # more channels than threads; one column too many
        ((2, 36, 19, 12), "sliced_last"),
        ((1, 280, 3, 5), "contiguous"),
    ):
        yield sample(shape, layout)
    # Two biases alone: their gradients must be summed before they are rounded.
    yield sample((2, 2, 33, 35), "sliced")
    yield sample((1, 10, 8, 9), "channels_last", bias=False)


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 4, 5, 6), "contiguous")
    yield sample((2, 2, 3, 4), "channels_last", bias=False)


def launched() -> Iterator[Sample]:
    yield sample((1, 96, 32, 32), "channels_last")
    yield sample((1, 2, 1, 1), "contiguous")


def timed(batch: int, side: int) -> Iterator[Sample]:
    large = sample((batch, 128, side, side), "channels_last")
    yield replace(large, master=frozenset({"weight", "bias"}))
