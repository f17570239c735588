"""What is particular to channel_attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moce_kernels import channel_attention
from tests.ops.spec import (
    activations,
    assert_close_to_float64,
    examples,
    sizes,
    skip_unless_it_runs,
)


def inputs(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "query": torch.randn(2, 4, 5, 6),
        "key_value": torch.randn(2, 8, 5, 6),
        "temperature": torch.rand(2) + 1,
        "weight": torch.randn(3, 4),
        "bias": torch.randn(3),
        "residual": torch.randn(2, 3, 5, 6),
        **changes,
    }


def test_reference_by_hand() -> None:
    """Two channels, one head; q's first row is k's second, so that the softmax prefers it."""
    q, k = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 5.0], [2.0, 0.0]])
    v = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    image = torch.cat([q, k, v]).view(1, 6, 1, 2)
    out = channel_attention(image, None, torch.tensor([100.0]), torch.eye(2), backend="reference")
    torch.testing.assert_close(out[0, :, 0], v.flip(0))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(30), deadline=None)
@given(
    heads=st.integers(1, 4),
    c=st.integers(1, 18),
    outer=sizes(20),
    height=sizes(40),
    width=sizes(70),
    cross=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str,
    heads: int,
    c: int,
    outer: int,
    height: int,
    width: int,
    cross: bool,
    layout: str,
    grad_layout: str,
) -> None:
    skip_unless_it_runs(backend, "channel_attention")
    torch.manual_seed(heads * 1000 + width)
    C = heads * c
    (query,) = activations(1, (2, C if cross else 3 * C, height, width), layout)
    (key_value,) = activations(1, (2, 2 * C, height, width), layout)
    (grad,) = activations(1, (2, outer, height, width), grad_layout)
    temperature, weight = torch.rand(heads) + 0.5, torch.randn(outer, C)
    tensors = [query, key_value, temperature, weight] if cross else [query, temperature, weight]

    def call(runs: str, query: Tensor, *rest: Tensor) -> Tensor:
        return channel_attention(query, *(rest if cross else (None, *rest)), backend=runs)

    assert_close_to_float64(backend, call, tensors, grad)


def test_a_row_of_zeros() -> None:
    """Its length is taken to be 1e-12: no division by zero, and no gradient through the length."""
    skip_unless_it_runs("cpu", "channel_attention")
    results = []
    for backend in ("cpu", "reference"):
        tensors = inputs()
        tensors["query"][:, 1] = 0
        tensors["query"].requires_grad_()
        out = channel_attention(**tensors, backend=backend)
        keys = tensors["query"].new_ones(4)
        keys[1] = 1e-12  # that row's gradient is as large as its length is small
        (grad,) = torch.autograd.grad(out.square().sum(), tensors["query"])
        results.append((out, grad * keys.view(1, 4, 1, 1)))
    for ours, plain in zip(*results, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_an_image_does_not_see_the_batch() -> None:
    skip_unless_it_runs("cpu", "channel_attention")
    tensors = inputs()
    together = channel_attention(**tensors, backend="cpu")
    for b in range(2):
        alone = {
            name: t[b : b + 1] if name in ("query", "key_value", "residual") else t
            for name, t in tensors.items()
        }
        assert torch.equal(channel_attention(**alone, backend="cpu"), together[b : b + 1])


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert channel_attention(**inputs(), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(4, 5, 6)}, ValueError, r"query must be \(B, C, H, W\)"),
        ({"key_value": None}, ValueError, r"query must be \(B, 3C, H, W\) without key_value"),
        ({"key_value": torch.zeros(2, 4, 5, 6)}, ValueError, "key_value must have shape"),
        ({"temperature": torch.ones(3)}, ValueError, "heads a divisor of 4 channels"),
        ({"temperature": torch.ones(2, 1, 1)}, ValueError, r"temperature must be \(heads,\)"),
        ({"weight": torch.zeros(3, 5)}, ValueError, r"weight must have shape \(3, 4\)"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(3,\)"),
        ({"residual": torch.zeros(2, 4, 5, 6)}, ValueError, "residual must have shape"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"channel_attention: .*{message}"):
        channel_attention(**inputs(**change))
