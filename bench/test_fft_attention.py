"""fft_attention compared with the torch.fft composition, in one run.

    python -m pytest bench/test_fft_attention.py --benchmark-group-by=group

A real transform of a P x P window of one channel takes 2.5 P^2 log2(P^2) = 5 P^2 log2 P additions
and multiplications; there are 3 forward and 6 more backward. Product, LayerNorm and gate take 11
for each pixel, their gradients 24. Forward moves q, k, v and the output; backward four inputs and
three gradients.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import fft_attention


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("window", [4, 8, 16, 32])
def test_fft_attention(
    benchmark: Any,
    window: int,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    # On a GPU more than its cache holds.
    shape = (1, 8, 32, 32) if quick else (16 if device.type == "cuda" else 1, 48, 256, 256)
    q, k, v = (activation(shape, device, dtype) for _ in range(3))
    weight = torch.ones(shape[1], device=device)
    backward = direction == "forward_backward"
    transforms = 9 if backward else 3
    measure(
        benchmark,
        "fft_attention",
        contender,
        direction,
        f"{'x'.join(map(str, shape))}, window {window}",
        [q, k, v, weight, torch.zeros_like(weight)],
        lambda backend, *t: fft_attention(*t, window, backend=backend),
        (11 if backward else 4) * q.numel() * q.element_size(),
        q.numel() * (transforms * 5 * math.log2(window) + (35 if backward else 11)),
        quick,
    )
