"""gated_depthwise_conv: every backend that runs here beside plain PyTorch, in one run.

    python -m pytest bench/test_gated_depthwise_conv.py --benchmark-group-by=group

float32, 2 threads, C = 128, 256 x 256, channels-last. ``extra_info`` gives the bytes of inputs and
outputs and the multiply-accumulates of a forward pass, and the rates they make.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels import gated_depthwise_conv
from moce_kernels.backends import BACKENDS, why_not

CHANNELS, SIZE = 128, 256
HERE = [b for b in BACKENDS if why_not(b, "gated_depthwise_conv", torch.device("cpu")) is None]


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def image(channels: int) -> Tensor:
    return torch.randn(1, channels, SIZE, SIZE).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
def test_gated_depthwise_conv(benchmark: Any, direction: str, backend: str) -> None:
    benchmark.group = direction
    x, weight, bias = image(CHANNELS), torch.randn(CHANNELS, 1, 3, 3), torch.ones(CHANNELS)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]

    def call() -> Tensor:
        return gated_depthwise_conv(x, weight, bias, backend=backend)

    with torch.no_grad():
        grad = torch.randn_like(call())

    def forward() -> None:
        with torch.no_grad():
            call()

    def forward_backward() -> None:
        torch.autograd.grad(call(), leaves, grad)

    benchmark(forward if direction == "forward" else forward_backward)
    if direction == "forward":
        seconds = benchmark.stats.stats.median
        moved = 4 * SIZE * SIZE * CHANNELS * 3 // 2
        benchmark.extra_info["GB/s"] = round(moved / seconds / 1e9, 1)
        benchmark.extra_info["GMAC/s"] = round(SIZE * SIZE * 9 * CHANNELS / seconds / 1e9, 1)
