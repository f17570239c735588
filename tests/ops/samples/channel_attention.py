"""Samples of channel_attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from moce_kernels import channel_attention
from tests.ops.spec import Sample, activations


def sample(
    shape: tuple[int, int, int, int], layout: str, heads: int, outer: int, *parts: str
) -> Sample:
    """``parts``: which of cross, bias and residual there are."""
    batch, channels, height, width = shape

    def images(n: int) -> Tensor:
        return activations(1, (batch, n, height, width), layout)[0]

    tensors = {"query": images(channels if "cross" in parts else 3 * channels)}
    if "cross" in parts:
        tensors["key_value"] = images(2 * channels)
    tensors["temperature"] = 1 + torch.rand(heads)
    tensors["weight"] = torch.randn(outer, channels) / channels**0.5
    if "bias" in parts:
        tensors["bias"] = torch.randn(outer)
    if "residual" in parts:
        tensors["residual"] = images(outer)

    def call(backend: str | None, query: Tensor, key_value: Any = None, **t: Tensor) -> Tensor:
        return channel_attention(query, key_value, **t, backend=backend)

    def raw(query: Tensor, key_value: Any = None, **t: Tensor) -> tuple[Any, ...]:
        return (query, key_value, *map(t.get, ("temperature", "weight", "bias", "residual")))

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-heads{heads}-to{outer}-{'-'.join(parts)}",
        tensors,
        call,
        raw,
        frozenset({"temperature", "weight", "bias"}),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((2, 32, 70, 66), "channels_last", 2, 32, "bias", "residual")
    yield sample((2, 48, 17, 45), "channels_last", 1, 48, "cross", "residual")
    yield sample((2, 12, 9, 31), "sliced_last", 4, 21, "cross", "bias")
    yield sample((1, 10, 33, 40), "contiguous", 2, 7, "residual")
    yield sample((2, 6, 20, 35), "sliced", 2, 16, "cross", "bias", "residual")
    yield sample((2, 9, 5, 3), "expanded", 3, 9)
    yield sample((1, 1, 1, 1), "contiguous", 1, 2, "bias")
    yield sample((2, 16, 7, 13), "channels_last", 2, 16, "bias", "residual")
    yield sample((1, 20, 9, 14), "sliced_last", 4, 21, "cross", "bias", "residual")
    yield sample((1, 70, 6, 11), "sliced", 1, 70, "cross")  # a head of several tiles
    yield sample((0, 8, 16, 16), "channels_last", 2, 8, "bias")
    yield sample((1, 64, 9, 20), "sliced_last", 2, 64, "cross")


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((2, 4, 5, 6), "contiguous", 2, 3, "bias", "residual")
    yield sample((1, 2, 3, 4), "channels_last", 1, 2, "cross")


def launched() -> Iterator[Sample]:
    yield sample((1, 96, 32, 32), "channels_last", 2, 96, "residual")
    yield sample((1, 96, 32, 32), "channels_last", 3, 85, "cross", "bias")
    yield sample((1, 384, 32, 32), "contiguous", 1, 384)
    yield sample((1, 1, 1, 1), "contiguous", 1, 1, "bias")


def timed(batch: int, side: int) -> Iterator[Sample]:
    """MDTA of the first and of the second of the network's four scales."""
    yield sample((batch, 48, side, side), "channels_last", 1, 48)
    yield sample((batch, 96, side // 2, side // 2), "channels_last", 2, 96, "residual")
