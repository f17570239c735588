"""channel_attention compared with PyTorch's products, softmax and linear layer, in one run.

C / heads products and sums for each of C channels to compare them, N C to project; backward twice
as many more. Forward moves q, k, v and a residual in and N channels out; backward reads q, k, v and
the gradient, and writes three gradients.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import channel_attention


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_channel_attention(
    benchmark: Any,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    """MDTA of the second of the network's four scales: two heads of 48 channels."""
    batch, side = (1, 16) if quick else (16 if device.type == "cuda" else 1, 128)
    channels, heads = 96, 2
    qkv = activation((batch, 3 * channels, side, side), device, dtype)
    leaves = [
        qkv,
        torch.ones(heads, device=device),
        torch.randn(channels, channels, device=device) / channels**0.5,
        activation((batch, channels, side, side), device, dtype),
    ]
    backward = direction == "forward_backward"
    pixels = batch * side * side
    measure(
        benchmark,
        "channel_attention",
        contender,
        direction,
        f"{batch}x{channels}x{side}x{side}, {heads} heads",
        leaves,
        lambda backend, qkv, temperature, weight, residual: channel_attention(
            qkv, None, temperature, weight, residual=residual, backend=backend
        ),
        pixels * channels * (5 + (7 if backward else 0)) * qkv.element_size(),
        pixels * (3 if backward else 1) * 2 * channels * (channels // heads + channels),
        quick,
    )
