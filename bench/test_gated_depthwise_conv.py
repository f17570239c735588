"""gated_depthwise_conv compared with PyTorch's convolution, GELU and product, in one run.

18 products and sums for each output, 9 for each half; backward three times as many more, for it
convolves again. Forward moves 2 C channels in and C out; backward reads both and writes a gradient.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import gated_depthwise_conv


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gated_depthwise_conv(
    benchmark: Any,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    shape = (1, 8, 32, 32) if quick else (16 if device.type == "cuda" else 1, 128, 256, 256)
    x = activation(shape, device, dtype)
    weight = torch.randn(shape[1], 1, 3, 3, device=device)
    backward = direction == "forward_backward"
    measure(
        benchmark,
        "gated_depthwise_conv",
        contender,
        direction,
        "x".join(map(str, shape)),
        [x, weight, torch.zeros(shape[1], device=device)],
        lambda backend, *t: gated_depthwise_conv(*t, backend=backend),
        (4 if backward else 1.5) * x.numel() * x.element_size(),
        (4 if backward else 1) * 18 * x.numel(),
        quick,
    )
