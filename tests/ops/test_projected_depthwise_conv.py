"""What is particular to projected_depthwise_conv."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moce_kernels import projected_depthwise_conv
from tests.ops.samples import projected_depthwise_conv as samples
from tests.ops.spec import examples, sizes, skip_unless_it_runs


def inputs(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    given = {
        "x": torch.randn(2, 4, 5, 6),
        "weight": torch.randn(3, 4),
        "depthwise": torch.randn(3, 1, 3, 3),
        "bias": torch.randn(3),
        "depthwise_bias": torch.randn(3),
        "norm": (torch.rand(4) + 0.5, torch.randn(4)),
    }
    return {**given, **changes}


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(40), deadline=None)
@given(
    channels=sizes(40),
    outer=sizes(40),
    height=st.integers(1, 9),
    width=sizes(130),
    kernel=st.sampled_from([3, 7]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str, channels: int, outer: int, height: int, width: int, kernel: int, layout: str
) -> None:
    skip_unless_it_runs(backend, "projected_depthwise_conv")
    torch.manual_seed(channels * 100 + width)
    shape = (2, channels, height, width)
    sample = samples.sample(shape, layout, outer, kernel, "norm", "bias")
    ours = sample.call(backend, **sample.tensors)
    exact = sample.call("reference", **sample.cast(torch.float64))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert projected_depthwise_conv(**inputs(), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 5, 6)}, ValueError, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 4, 5, 6).int()}, TypeError, "x must be float32"),
        ({"depthwise": torch.zeros(3, 1, 5, 5)}, ValueError, "depthwise must be .* K 3 or 7"),
        ({"weight": torch.zeros(3, 5)}, ValueError, r"weight must have shape \(3, 4\)"),
        ({"depthwise_bias": torch.zeros(4)}, ValueError, r"depthwise_bias must have shape"),
        ({"norm": (torch.ones(3), torch.ones(4))}, ValueError, r"norm\[0\] must have shape"),
        ({"eps": 0.0}, ValueError, "eps must be positive"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"projected_depthwise_conv: {message}"):
        projected_depthwise_conv(**inputs(**change))
