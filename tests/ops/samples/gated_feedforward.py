"""Samples of gated_feedforward."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from moce_kernels import gated_feedforward
from tests.ops.spec import Sample, activations, norm_parameters, with_norm


def sample(shape: tuple[int, int, int, int], layout: str, hidden: int, *parts: str) -> Sample:
    """``parts``: which of bias (all three) and norm there are."""
    channels = shape[1]
    (x,) = activations(1, shape, layout)
    tensors = {
        "x": x,
        "project_in": torch.randn(2 * hidden, channels) / channels**0.5,
        "depthwise": torch.randn(2 * hidden, 1, 3, 3) / 3,
        "project_out": torch.randn(channels, hidden) / hidden**0.5,
    }
    if "bias" in parts:
        for name, size in (("in", 2 * hidden), ("depthwise", 2 * hidden), ("out", channels)):
            tensors[f"{name}_bias"] = torch.randn(size)
    if "norm" in parts:
        tensors |= norm_parameters(channels)
    order = ("x", "project_in", "in_bias", "depthwise", "depthwise_bias", "project_out", "out_bias")
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-hidden{hidden}-{'-'.join(parts)}",
        tensors,
        with_norm(gated_feedforward),
        lambda **t: (*map(t.get, order), "norm" in parts, 1e-5),
        frozenset(tensors) - {"x"},
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((2, 24, 21, 110), "channels_last", 48, "norm", "bias")  # two strips
    yield sample((1, 13, 9, 31), "sliced_last", 5, "norm", "bias")
    yield sample((1, 32, 5, 40), "contiguous", 9, "norm")
    yield sample((2, 5, 12, 20), "sliced", 16, "bias")
    yield sample((2, 12, 5, 3), "expanded", 9)
    # One pixel; many of them, so that errors are compared and not single roundings.
    yield sample((32, 24, 1, 1), "contiguous", 20, "norm", "bias")
    yield sample((2, 12, 6, 20), "channels_last", 16, "norm", "bias")
    yield sample((0, 8, 16, 16), "channels_last", 8, "norm", "bias")
    yield sample((1, 64, 5, 20), "sliced_last", 64, "norm")
    yield sample((1, 32, 13, 18), "channels_last", 40, "norm", "bias")


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 3, 5, 6), "contiguous", 4, "norm", "bias")
    yield sample((2, 4, 3, 2), "channels_last", 2)


def launched() -> Iterator[Sample]:
    yield sample((1, 32, 32, 32), "channels_last", 64, "norm", "bias")


def timed(batch: int, side: int) -> Iterator[Sample]:
    yield sample((batch, 48, side, side), "channels_last", 96, "norm")
