"""window_fft_conv compared with the torch.fft composition, in one run.

A real transform of a P x P window of one channel takes 2.5 P^2 log2(P^2) = 5 P^2 log2 P additions
and multiplications; there are 3 forward and 5 more backward, and 3 P^2 for each product of spectra.
Forward moves q, k and the output; backward three inputs and two gradients.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import window_fft_conv


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("window", [4, 8, 16, 32])
def test_window_fft_conv(
    benchmark: Any,
    window: int,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    shape = (1, 8, 32, 32) if quick else (16 if device.type == "cuda" else 1, 48, 256, 256)
    q, k = (activation(shape, device, dtype) for _ in range(2))
    backward = direction == "forward_backward"
    measure(
        benchmark,
        "window_fft_conv",
        contender,
        direction,
        f"{'x'.join(map(str, shape))}, window {window}",
        [q, k],
        lambda backend, *t: window_fft_conv(*t, window, backend=backend),
        (8 if backward else 3) * q.numel() * q.element_size(),
        q.numel() * ((8 if backward else 3) * 5 * math.log2(window) + (9 if backward else 3)),
        quick,
    )
