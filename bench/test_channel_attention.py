"""channel_attention: every backend that runs here beside plain PyTorch, in one run.

    python -m pytest bench/test_channel_attention.py --benchmark-group-by=group

float32, 2 threads, C = 64, 256 x 256, channels-last. ``extra_info`` gives the bytes of inputs and
outputs and the multiply-accumulates of a forward pass, and the rates they make.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels import channel_attention
from moce_kernels.backends import BACKENDS, why_not

CHANNELS, SIZE = 64, 256
HERE = [b for b in BACKENDS if why_not(b, "channel_attention", torch.device("cpu")) is None]


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
@pytest.mark.parametrize("heads", [1, 2])
def test_channel_attention(benchmark: Any, heads: int, direction: str, backend: str) -> None:
    benchmark.group = f"{heads} heads, {direction}"
    qkv, residual, weight = image(3 * CHANNELS), image(CHANNELS), torch.randn(CHANNELS, CHANNELS)
    leaves = [t.requires_grad_() for t in (qkv, residual, torch.ones(heads), weight)]

    def call() -> Tensor:
        return channel_attention(qkv, None, leaves[2], weight, residual=residual, backend=backend)

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
        benchmark.extra_info["GMAC/s"] = round(
            SIZE * SIZE * (CHANNELS**2 // heads + CHANNELS**2) / seconds / 1e9, 1
        )
