"""Samples of routing_plan."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from moce_kernels import routing_plan
from tests.ops.spec import Sample


def sample(batch: int, experts: int, top_k: int) -> Sample:
    return Sample(
        f"{batch}x{experts}-top{top_k}",
        {"logits": torch.randn(batch, experts)},
        lambda backend, logits: routing_plan(logits, top_k, backend).gate,
        lambda logits: (logits, top_k),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for batch, experts, top_k in ((1, 4, 1), (33, 4, 2), (5, 1, 1), (7, 6, 6), (0, 4, 1)):
        yield sample(batch, experts, top_k)


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample(3, 4, 2)


def launched() -> Iterator[Sample]:
    yield sample(32, 4, 1)
    yield sample(1, 1, 1)


def timed(batch: int, side: int) -> Iterator[Sample]:
    yield sample(32, 4, 1)
