"""What is particular to pointwise_conv."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moce_kernels import pointwise_conv
from moce_kernels.ops import _library
from tests.ops.spec import (
    activations,
    assert_close_to_float64,
    examples,
    sizes,
    skip_unless_it_runs,
)


def inputs(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    x, residual = torch.randn(2, 4, 5, 6), torch.randn(2, 3, 5, 6)
    norm = (torch.rand(4) + 0.5, torch.randn(4))
    given = {"x": x, "weight": torch.randn(3, 4), "bias": torch.randn(3)}
    return {**given, "norm": norm, "residual": residual, **changes}


def test_reference_by_hand() -> None:
    x = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    norm = (torch.tensor([2.0, 1.0]), torch.tensor([0.0, 5.0]))  # to -2 and 6
    out = pointwise_conv(
        x,
        torch.tensor([[1.0, 1.0], [10.0, 0.0]]),
        torch.tensor([0.5, 0.0]),
        norm,
        torch.full((1, 2, 1, 1), 100.0),
        eps=1e-12,
        backend="reference",
    )
    torch.testing.assert_close(out.flatten(), torch.tensor([104.5, 80.0]))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(40), deadline=None)
@given(
    inner=sizes(40),
    outer=sizes(40),
    height=st.integers(1, 9),
    width=sizes(70),
    norm=st.sampled_from([None, True, "affine"]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str,
    inner: int,
    outer: int,
    height: int,
    width: int,
    norm: bool | str | None,
    layout: str,
    grad_layout: str,
) -> None:
    skip_unless_it_runs(backend, "pointwise_conv")
    torch.manual_seed(inner * 100 + width)
    (x,) = activations(1, (2, inner, height, width), layout)
    (grad,) = activations(1, (2, outer, height, width), grad_layout)
    tensors = [x, torch.randn(outer, inner)]
    if norm == "affine":
        tensors += [torch.rand(inner), torch.randn(inner)]

    def call(runs: str, x: Tensor, weight: Tensor, *affine: Tensor) -> Tensor:
        how = (affine[0], affine[1]) if affine else bool(norm)
        return pointwise_conv(x, weight, norm=how, eps=1.0, backend=runs)

    assert_close_to_float64(backend, call, tensors, grad)

    # What is added to the gradient of x in the same pass.
    (plus,) = activations(1, x.shape, grad_layout)
    gradient = functools.partial(_library.raw(backend).pointwise_conv_backward, grad, x, tensors[1])
    found, without = (gradient(p, bool(norm), 1.0, True, False)[0] for p in (plus, None))
    torch.testing.assert_close(found, without + plus, rtol=1e-5, atol=1e-5)


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert pointwise_conv(**inputs(), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 5, 6)}, ValueError, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 4, 5, 6).int()}, TypeError, "x must be float32"),
        ({"weight": torch.zeros(3, 4, 1, 1)}, ValueError, r"weight must be \(N, C\), not"),
        ({"weight": torch.zeros(3, 5)}, ValueError, r"weight must have shape \(3, 4\), not"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(3,\)"),
        (
            {"norm": (torch.ones(3), torch.ones(4))},
            ValueError,
            r"norm\[0\] must have shape \(4,\)",
        ),
        ({"residual": torch.zeros(2, 3, 5, 7)}, ValueError, r"residual must have shape"),
        ({"residual": torch.zeros(2, 3, 5, 6).double()}, ValueError, "residual must have dtype"),
        ({"eps": 0.0}, ValueError, "eps must be positive"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"pointwise_conv: {message}"):
        pointwise_conv(**inputs(**change))


@pytest.mark.parametrize("channels", [4, 200])  # 200: more than a GPU's program sees at once
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_gradient_is_added_in_every_dtype(backend: str, norm: bool, channels: int) -> None:
    skip_unless_it_runs(backend, "pointwise_conv")
    weight = torch.randn(6, channels) / channels**0.5
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, plus = (torch.randn(2, channels, 5, 7).to(dtype) for _ in range(2))
        grad = torch.randn(2, 6, 5, 7).to(dtype)
        backward = _library.raw(backend).pointwise_conv_backward
        found, _, _ = backward(grad, x, weight, plus, norm, 1e-5, True, False)
        alone, _, _ = backward(grad, x, weight, None, norm, 1e-5, True, False)
        assert found.dtype == dtype
        error = (found.float() - (alone.float() + plus.float())).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * (1 + found.float().abs().max())
