"""Samples of projected_depthwise_conv."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from moce_kernels import projected_depthwise_conv
from tests.ops.spec import Sample, activations, norm_parameters, with_norm


def sample(
    shape: tuple[int, int, int, int], layout: str, outer: int, kernel: int, *parts: str
) -> Sample:
    """``parts``: which of bias (both) and norm there are."""
    channels = shape[1]
    (x,) = activations(1, shape, layout)
    tensors = {
        "x": x,
        "weight": torch.randn(outer, channels) / channels**0.5,
        "depthwise": torch.randn(outer, 1, kernel, kernel) / kernel,
    }
    if "bias" in parts:
        tensors["bias"], tensors["depthwise_bias"] = torch.randn(outer), torch.randn(outer)
    if "norm" in parts:
        tensors |= norm_parameters(channels)
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-to{outer}-kernel{kernel}-{'-'.join(parts)}",
        tensors,
        with_norm(projected_depthwise_conv),
        lambda **t: (
            *map(t.get, ("x", "weight", "bias", "depthwise", "depthwise_bias")),
            "norm" in parts,
            1e-5,
        ),
        frozenset(tensors) - {"x"},
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for kernel in (3, 7):
        yield sample((2, 16, 21, 110), "channels_last", 48, kernel, "norm", "bias")
        yield sample((1, 13, 9, 31), "sliced_last", 21, kernel, "norm", "bias")
        yield sample((1, 37, 5, 40), "contiguous", 7, kernel, "norm")
        yield sample((2, 5, 12, 20), "sliced", 16, kernel, "bias")
        yield sample((2, 12, 5, 3), "expanded", 9, kernel)
        yield sample((32, 24, 1, 1), "contiguous", 20, kernel, "norm", "bias")
        yield sample((2, 12, 6, 20), "channels_last", 16, kernel, "norm", "bias")
        yield sample((0, 8, 16, 16), "channels_last", 8, kernel, "norm", "bias")
        yield sample((1, 64, 5, 20), "sliced_last", 64, kernel)


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 3, 5, 6), "contiguous", 4, 3, "norm", "bias")
    yield sample((2, 4, 3, 2), "channels_last", 3, 7)


def launched() -> Iterator[Sample]:
    yield sample((1, 32, 32, 32), "channels_last", 64, 7)


def timed(batch: int, side: int) -> Iterator[Sample]:
    """Keys and values of the cross attention."""
    yield sample((batch, 48, side, side), "channels_last", 96, 7, "norm")
