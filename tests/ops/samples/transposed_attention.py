"""Samples of transposed_attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from moce_kernels import transposed_attention
from tests.ops.spec import Sample, activations, norm_parameters, with_norm


def sample(
    shape: tuple[int, int, int, int], layout: str, heads: int, inner: int, outer: int, *parts: str
) -> Sample:
    """``parts``: which of bias (all three), norm and residual there are; "shortcut": the residual
    is x itself."""
    batch, channels, height, width = shape
    (x,) = activations(1, (batch, inner, height, width), layout)
    tensors = {
        "x": x,
        "qkv": torch.randn(3 * channels, inner) / inner**0.5,
        "depthwise": torch.randn(3 * channels, 1, 3, 3) / 3,
        "temperature": 1 + torch.rand(heads),
        "weight": torch.randn(outer, channels) / channels**0.5,
    }
    if "bias" in parts:
        tensors["qkv_bias"] = torch.randn(3 * channels)
        tensors["depthwise_bias"], tensors["bias"] = torch.randn(3 * channels), torch.randn(outer)
    if "norm" in parts:
        tensors |= norm_parameters(inner)
    if "residual" in parts:
        (tensors["residual"],) = activations(1, (batch, outer, height, width), layout)
    order = ("x", "qkv", "qkv_bias", "depthwise", "depthwise_bias", "temperature", "weight")

    def call(backend: str | None, **t: Tensor) -> Tensor:
        more = {"residual": t["x"]} if "shortcut" in parts else {}
        return with_norm(transposed_attention)(backend, **t, **more)

    def raw(**t: Tensor) -> tuple[Any, ...]:
        residual = t["x"] if "shortcut" in parts else t.get("residual")
        return (*map(t.get, (*order, "bias")), residual, "norm" in parts, 1e-5)

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-heads{heads}-{inner}to{outer}-{'-'.join(parts)}",
        tensors,
        call,
        raw,
        frozenset(tensors) - {"x", "residual"},
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    shapes = (2, 16, 21, 110), (2, 12, 9, 31)
    yield sample(shapes[0], "channels_last", 4, 16, 16, "norm", "bias", "residual")
    yield sample(shapes[1], "sliced_last", 4, 13, 21, "norm", "bias")
    yield sample((1, 12, 33, 40), "contiguous", 4, 7, 7, "norm", "residual")
    yield sample((2, 12, 20, 35), "sliced", 6, 5, 16, "bias")
    yield sample((2, 9, 5, 3), "expanded", 3, 12, 9)
    yield sample((2, 16, 6, 20), "channels_last", 4, 12, 12, "norm", "residual")
    yield sample((0, 8, 16, 16), "channels_last", 2, 8, 8, "norm", "bias")
    yield sample((1, 64, 5, 20), "sliced_last", 2, 64, 64, "norm")


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((2, 4, 5, 6), "contiguous", 2, 3, 3, "norm", "bias", "residual")
    yield sample((1, 2, 3, 4), "channels_last", 1, 3, 2)


def launched() -> Iterator[Sample]:
    yield sample((1, 32, 32, 32), "channels_last", 1, 32, 32, "residual")


def timed(batch: int, side: int) -> Iterator[Sample]:
    """MDTA, whose residual is its input."""
    yield sample((batch, 48, side, side), "channels_last", 2, 48, 48, "norm", "shortcut")
