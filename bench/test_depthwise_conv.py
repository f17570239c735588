"""depthwise_conv compared with PyTorch's convolution, in one run.

K^2 products and sums for each output; backward twice as many more. Forward moves the input and the
output; backward reads the gradient twice, the input, and writes a gradient.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import depthwise_conv


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kernel", [3, 7])
def test_depthwise_conv(
    benchmark: Any,
    kernel: int,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    shape = (1, 8, 32, 32) if quick else (16 if device.type == "cuda" else 1, 48, 256, 256)
    x = activation(shape, device, dtype)
    weight = torch.randn(shape[1], 1, kernel, kernel, device=device)
    backward = direction == "forward_backward"
    measure(
        benchmark,
        "depthwise_conv",
        contender,
        direction,
        f"{'x'.join(map(str, shape))}, kernel {kernel}",
        [x, weight, torch.zeros(shape[1], device=device)],
        lambda backend, *t: depthwise_conv(*t, backend=backend),
        (6 if backward else 2) * x.numel() * x.element_size(),
        (3 if backward else 1) * 2 * kernel**2 * x.numel(),
        quick,
    )
