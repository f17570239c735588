"""pointwise_conv: every backend that runs here beside plain PyTorch, in one run.

    python -m pytest bench/test_pointwise_conv.py --benchmark-group-by=group

float32, 2 threads, C = 32, 256 x 256, channels-last. ``extra_info`` gives the bytes of inputs and
outputs and the multiply-accumulates of a forward pass, and the rates they make.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels import pointwise_conv
from moce_kernels.backends import BACKENDS, why_not

CHANNELS, SIZE = 32, 256
HERE = [b for b in BACKENDS if why_not(b, "pointwise_conv", torch.device("cpu")) is None]


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
def test_pointwise_conv(benchmark: Any, direction: str, backend: str) -> None:
    """The first of GDFN, C to 4 C with a LayerNorm before it."""
    benchmark.group = direction
    x, weight, bias = image(CHANNELS), torch.randn(4 * CHANNELS, CHANNELS), torch.ones(4 * CHANNELS)
    norm = torch.ones(CHANNELS), torch.zeros(CHANNELS)
    leaves = [t.requires_grad_() for t in (x, weight, bias, *norm)]

    def call() -> Tensor:
        return pointwise_conv(x, weight, bias, norm, backend=backend)

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
        moved = 4 * SIZE * SIZE * 5 * CHANNELS
        benchmark.extra_info["GB/s"] = round(moved / seconds / 1e9, 1)
        benchmark.extra_info["GMAC/s"] = round(SIZE * SIZE * 4 * CHANNELS**2 / seconds / 1e9, 1)
