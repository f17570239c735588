"""fft_attention: every backend that runs here beside the torch.fft composition, in one run.

    python -m pytest bench/test_fft_attention.py --benchmark-group-by=group

float32, 2 threads, C = 48, 256 x 256, channels-last. ``extra_info`` gives the bytes that the
formula at the kernel's head says it moves, and the rate that makes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moce_kernels import fft_attention
from moce_kernels.backends import BACKENDS, why_not

CHANNELS, SIZE = 48, 256
HERE = [b for b in BACKENDS if why_not(b, "fft_attention", torch.device("cpu")) is None]


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("window", [4, 8, 16, 32])
def test_fft_attention(benchmark: Any, window: int, direction: str, backend: str) -> None:
    benchmark.group = f"window {window}, {direction}"
    q, k, v, grad = (
        torch.randn(1, CHANNELS, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        for _ in range(4)
    )
    leaves = [t.requires_grad_() for t in (q, k, v, torch.ones(CHANNELS), torch.zeros(CHANNELS))]

    def forward() -> None:
        with torch.no_grad():
            fft_attention(*leaves, window, backend=backend)

    def forward_backward() -> None:
        out = fft_attention(*leaves, window, backend=backend)
        torch.autograd.grad(out, leaves, grad)

    elements = 4 if direction == "forward" else 4 + 7  # moved for each output element
    benchmark.extra_info["bytes"] = elements * 4 * q.numel()
    benchmark(forward if direction == "forward" else forward_backward)
    rate = benchmark.extra_info["bytes"] / benchmark.stats.stats.median / 1e9
    benchmark.extra_info["GB/s"] = round(rate, 1)


def test_copy_bandwidth(benchmark: Any) -> None:
    """What the rates above are a fraction of: one copy, 8 bytes for each float32."""
    a = torch.randn(1, CHANNELS, SIZE, SIZE)
    b = torch.empty_like(a)
    benchmark(lambda: b.copy_(a))
    benchmark.extra_info["GB/s"] = round(8 * a.numel() / benchmark.stats.stats.median / 1e9, 1)
