"""routing_plan compared with its composition of PyTorch's sorts and sums: a few kilobytes, so that
launches are all that it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, measure
from moce_kernels import routing_plan


@pytest.mark.parametrize("contender", CONTENDERS)
def test_routing_plan(benchmark: Any, contender: str, device: torch.device, quick: bool) -> None:
    batch, experts, top_k = 32, 4, 1
    measure(
        benchmark,
        "routing_plan",
        contender,
        "forward",
        f"{batch}x{experts}, top {top_k}",
        [torch.randn(batch, experts, device=device)],
        lambda backend, logits: routing_plan(logits, top_k, backend=backend).gate,
        4 * batch * experts + 20 * batch * top_k,
        0,
        quick,
    )
