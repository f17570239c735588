"""Samples of pointwise_conv."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from moce_kernels import pointwise_conv
from tests.ops.spec import Sample, activations, norm_parameters, with_norm


def sample(shape: tuple[int, int, int, int], layout: str, outer: int, *parts: str) -> Sample:
    """``parts``: which of bias, norm and residual there are."""
    (x,) = activations(1, shape, layout)
    tensors = {"x": x, "weight": torch.randn(outer, shape[1]) / shape[1] ** 0.5}
    if "bias" in parts:
        tensors["bias"] = torch.randn(outer)
    if "residual" in parts:
        (tensors["residual"],) = activations(1, (shape[0], outer, *shape[2:]), layout)
    if "norm" in parts:
        tensors |= norm_parameters(shape[1])

    def raw(x: Tensor, weight: Tensor, **more: Tensor) -> tuple[Any, ...]:
        return (x, weight, more.get("bias"), more.get("residual"), "norm" in parts, 1e-5)

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-to{outer}-{'-'.join(parts)}",
        tensors,
        with_norm(pointwise_conv),
        raw,
        frozenset({"weight", "bias", "scale", "shift"}),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((2, 48, 35, 30), "channels_last", 96, "norm", "bias")
    yield sample((2, 32, 17, 45), "channels_last", 48, "bias", "residual")
    yield sample((2, 13, 9, 31), "sliced_last", 21, "norm", "bias", "residual")
    yield sample((1, 37, 5, 50), "contiguous", 7, "norm")
    yield sample((2, 5, 20, 35), "sliced", 16, "bias", "residual")
    yield sample((2, 12, 5, 3), "expanded", 9, "residual")
    yield sample((1, 2, 1, 1), "contiguous", 3, "norm", "bias")
    yield sample((1, 20, 4, 4), "channels_last", 8)
    yield sample((2, 48, 5, 7), "channels_last", 85, "norm", "bias", "residual")
    yield sample((1, 85, 7, 8), "sliced_last", 32, "norm", "residual")
    yield sample((1, 10, 9, 15), "sliced", 21, "norm", "bias", "residual")
    yield sample((2, 170, 3, 4), "channels_last", 40, "norm", "bias")  # many channels
    yield sample((0, 8, 16, 16), "channels_last", 8, "norm", "bias", "residual")
    # Whole tiles of bfloat16, and pixels an odd number of channels apart; so in others' samples.
    yield sample((1, 64, 5, 20), "sliced_last", 96, "bias")


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((1, 3, 5, 6), "contiguous", 4, "norm", "bias", "residual")
    yield sample((2, 4, 3, 2), "channels_last", 3)


def launched() -> Iterator[Sample]:
    for channels, outer in ((48, 254), (384, 2042)):  # all channels in one program; too many
        yield sample((1, channels, 32, 32), "channels_last", outer, "norm", "bias")
    yield sample((1, 128, 32, 32), "channels_last", 24, "norm")
    yield sample((1, 85, 32, 32), "channels_last", 32, "residual")
    yield sample((1, 64, 32, 32), "contiguous", 170, "norm")
    yield sample((1, 1, 1, 1), "contiguous", 1, "norm", "residual")


def timed(batch: int, side: int) -> Iterator[Sample]:
    """The first layer of GDFN, with a norm before it, and its last, with a residual after it; other
    first layers, of the fewest and of many channels."""
    yield sample((batch, 48, side, side), "channels_last", 254, "norm")
    yield sample((batch, 127, side, side), "channels_last", 48, "residual")
    for inner, outer in ((32, 128), (64, 32)):
        yield sample((batch, inner, side, side), "channels_last", outer, "norm")
    yield sample((batch, 256, side // 4, side // 4), "channels_last", 768, "norm")
