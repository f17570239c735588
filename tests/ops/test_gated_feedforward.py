"""What is particular to gated_feedforward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moce_kernels import gated_feedforward
from tests.ops.samples import gated_feedforward as samples
from tests.ops.spec import (
    activations,
    examples,
    sizes,
    skip_unless_it_runs,
)


def inputs(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    given = {
        "x": torch.randn(2, 4, 5, 6),
        "project_in": torch.randn(6, 4),
        "depthwise": torch.randn(6, 1, 3, 3),
        "project_out": torch.randn(4, 3),
        "in_bias": torch.randn(6),
        "depthwise_bias": torch.randn(6),
        "out_bias": torch.randn(4),
        "norm": (torch.rand(4) + 0.5, torch.randn(4)),
    }
    return {**given, **changes}


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(40), deadline=None)
@given(
    channels=sizes(40),
    hidden=sizes(40),
    height=st.integers(1, 9),
    width=sizes(130),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str, channels: int, hidden: int, height: int, width: int, layout: str
) -> None:
    skip_unless_it_runs(backend, "gated_feedforward")
    torch.manual_seed(channels * 100 + width)
    sample = samples.sample((2, channels, height, width), layout, hidden, "norm", "bias")
    ours = sample.call(backend, **sample.tensors)
    exact = sample.call("reference", **sample.cast(torch.float64))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


def test_rows_depend_on_their_neighbours_alone() -> None:
    """Whatever lies about them in memory, and however rows are dealt to threads."""
    skip_unless_it_runs("cpu", "gated_feedforward")
    torch.manual_seed(0)
    (x,) = activations(1, (1, 4, 40, 300), "channels_last")
    tensors = inputs(x=x)
    whole = gated_feedforward(**tensors, backend="cpu")
    tensors["x"] = x[:, :, 10:30]
    part = gated_feedforward(**tensors, backend="cpu")
    torch.testing.assert_close(part[:, :, 1:-1], whole[:, :, 11:29], rtol=0, atol=0)


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert gated_feedforward(**inputs(), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 5, 6)}, ValueError, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 4, 5, 6).int()}, TypeError, "x must be float32"),
        ({"project_out": torch.zeros(4, 3, 1, 1)}, ValueError, r"project_out must be \(C, N\)"),
        ({"project_in": torch.zeros(6, 5)}, ValueError, r"project_in must have shape \(6, 4\)"),
        ({"depthwise": torch.zeros(6, 1, 7, 7)}, ValueError, "depthwise must have shape"),
        ({"out_bias": torch.zeros(3)}, ValueError, r"out_bias must have shape \(4,\)"),
        ({"norm": (torch.ones(3), torch.ones(4))}, ValueError, r"norm\[0\] must have shape"),
        ({"eps": 0.0}, ValueError, "eps must be positive"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"gated_feedforward: {message}"):
        gated_feedforward(**inputs(**change))
