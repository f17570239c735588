"""What is particular to routing_plan."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moce_kernels import routing_plan
from tests.ops.spec import examples, skip_unless_it_runs

BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    skip_unless_it_runs(backend, "routing_plan")
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 3.0, 3.0], [0.0, 0.0, 1.0]])
    plan = routing_plan(logits, 2, backend)
    assert plan.expert.tolist() == [[1, 2], [0, 1], [2, 0]]  # ties: the lower index
    scores = logits.softmax(dim=1)
    torch.testing.assert_close(plan.gate, scores.gather(1, plan.expert))
    assert plan.order.tolist() == [2, 5, 0, 3, 1, 4]
    assert plan.offsets.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(60), deadline=None)
@given(
    rows=st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(-3, 3) | st.just(float("nan")), min_size=n, max_size=n), max_size=6
        ).map(lambda rows: (n, rows))
    ),
    data=st.data(),
)
def test_any_logits(backend: str, rows: tuple[int, list[list[float]]], data: st.DataObject) -> None:
    """Small integers, so that ties are common, and NaN."""
    skip_unless_it_runs(backend, "routing_plan")
    n, values = rows
    logits = torch.tensor(values, dtype=torch.float32).reshape(-1, n)
    top_k = data.draw(st.integers(1, n))
    ours, plain = (routing_plan(logits, top_k, b) for b in (backend, "reference"))
    assert torch.equal(ours.expert, plain.expert)
    torch.testing.assert_close(ours.gate, plain.gate, equal_nan=True)
    assert torch.equal(ours.order, plain.order)
    assert torch.equal(ours.offsets, plain.offsets)


@pytest.mark.parametrize(
    ("logits", "top_k", "error", "message"),
    [
        (torch.zeros(3), 1, ValueError, r"logits must be \(B, n\)"),
        (torch.zeros(3, 4), 0, ValueError, "top_k must be 1 to 4"),
        (torch.zeros(3, 4), 5, ValueError, "top_k must be 1 to 4"),
        (torch.zeros(3, 4, dtype=torch.int64), 1, TypeError, "logits must be float32"),
    ],
)
def test_refuses(logits: Tensor, top_k: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"routing_plan: {message}"):
        routing_plan(logits, top_k)
