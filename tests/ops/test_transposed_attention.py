"""What is particular to transposed_attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moce_kernels import transposed_attention
from tests.ops.samples import transposed_attention as samples
from tests.ops.spec import (
    activations,
    assert_close_to_float64,
    examples,
    sizes,
    skip_unless_it_runs,
)


def inputs(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    given = {
        "x": torch.randn(2, 5, 6, 7),
        "qkv": torch.randn(12, 5),
        "depthwise": torch.randn(12, 1, 3, 3),
        "temperature": torch.rand(2) + 1,
        "weight": torch.randn(3, 4),
        "qkv_bias": torch.randn(12),
        "depthwise_bias": torch.randn(12),
        "bias": torch.randn(3),
        "norm": (torch.rand(5) + 0.5, torch.randn(5)),
        "residual": torch.randn(2, 3, 6, 7),
    }
    return {**given, **changes}


def test_reference_by_hand() -> None:
    """q is x and k its two channels exchanged, so that the softmax exchanges v's, which are x's one
    pixel on."""
    x = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    eye = torch.eye(2)
    depthwise = torch.zeros(6, 1, 3, 3)
    depthwise[:4, 0, 1, 1] = 1
    depthwise[4:, 0, 1, 0] = 1
    out = transposed_attention(
        x,
        torch.cat([eye, eye.flip(0), eye]),
        depthwise,
        torch.tensor([100.0]),
        torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        bias=torch.tensor([0.5, 0.0]),
        residual=10 * x,
        backend="reference",
    )
    expected = torch.tensor([[30.5, 0.5, 1.5], [0.0, 16.0, 0.0]])
    torch.testing.assert_close(out[0, :, 0], expected)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(20), deadline=None)
@given(
    heads=st.integers(1, 4),
    c=sizes(18),
    inner=st.integers(2, 20),
    outer=sizes(20),
    height=sizes(40),
    width=sizes(70),
    norm=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str,
    heads: int,
    c: int,
    inner: int,
    outer: int,
    height: int,
    width: int,
    norm: bool,
    layout: str,
    grad_layout: str,
) -> None:
    skip_unless_it_runs(backend, "transposed_attention")
    torch.manual_seed(heads * 1000 + width)
    shape = (2, heads * c, height, width)
    parts = ("bias", "norm") if norm else ("bias",)
    sample = samples.sample(shape, layout, heads, inner, outer, *parts)
    (grad,) = activations(1, (2, outer, height, width), grad_layout)
    names = list(sample.tensors)
    assert_close_to_float64(
        backend,
        lambda runs, *leaves: sample.call(runs, **dict(zip(names, leaves, strict=True))),
        list(sample.cast(torch.float32).values()),
        grad,
    )


def test_neighbours_do_not_leak() -> None:
    """Slices of a tensor full of NaN: what lies beside them in memory changes nothing."""
    skip_unless_it_runs("cpu", "transposed_attention")
    for inner in (1, 5, 12, 17):
        large = torch.full((2, 9, 11, inner + 7), float("nan"))
        large[:, 2:7, 3:9, 4 : 4 + inner] = torch.randn(2, 5, 6, inner)
        x = large[:, 2:7, 3:9, 4 : 4 + inner].permute(0, 3, 1, 2)
        tensors = inputs(x=x, qkv=torch.randn(12, inner), norm=None, residual=None)
        results = []
        for backend in ("cpu", "reference"):
            given = {n: t for n, t in tensors.items() if t is not None}
            leaves = {n: t.detach().requires_grad_() for n, t in given.items()}
            out = transposed_attention(**leaves, backend=backend)
            grads = torch.autograd.grad(out.square().sum(), list(leaves.values()))
            results.append((out, *grads))
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-3)


def test_an_image_does_not_see_the_batch() -> None:
    skip_unless_it_runs("cpu", "transposed_attention")
    tensors = inputs()
    together = transposed_attention(**tensors, backend="cpu")
    for b in range(2):
        alone = {n: t[b : b + 1] if n in ("x", "residual") else t for n, t in tensors.items()}
        assert torch.equal(transposed_attention(**alone, backend="cpu"), together[b : b + 1])


def test_the_residual_may_be_x() -> None:
    """Then the gradient of x has both parts; another tensor of the same values has its own."""
    skip_unless_it_runs("cpu", "transposed_attention")
    tensors = inputs(weight=torch.randn(5, 4), bias=torch.randn(5))
    x = tensors["x"].requires_grad_()
    apart = x.detach().clone().requires_grad_()
    for residual in (x, apart):
        out = transposed_attention(**{**tensors, "residual": residual}, backend="cpu")
        out.square().sum().backward()
        if residual is x:
            together, x.grad = x.grad, None
    assert apart.grad is not None
    torch.testing.assert_close(together, x.grad + apart.grad)


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert transposed_attention(**inputs(), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(5, 6, 7)}, ValueError, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 5, 6, 7).int()}, TypeError, "x must be float32"),
        ({"qkv": torch.zeros(12, 4)}, ValueError, r"qkv must have shape \(12, 5\)"),
        ({"depthwise": torch.zeros(12, 1, 7, 7)}, ValueError, "depthwise must have shape"),
        ({"temperature": torch.ones(3)}, ValueError, "heads a divisor of 4 channels"),
        ({"temperature": torch.ones(2, 1, 1)}, ValueError, r"temperature must be \(heads,\)"),
        ({"weight": torch.zeros(3, 4, 1, 1)}, ValueError, r"weight must be \(M, N\)"),
        ({"qkv_bias": torch.zeros(4)}, ValueError, r"qkv_bias must have shape \(12,\)"),
        ({"depthwise_bias": torch.zeros(4)}, ValueError, "depthwise_bias must have shape"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(3,\)"),
        ({"norm": (torch.ones(4), torch.ones(5))}, ValueError, r"norm\[0\] must have shape"),
        ({"residual": torch.zeros(2, 5, 6, 7)}, ValueError, "residual must have shape"),
        ({"eps": 0.0}, ValueError, "eps must be positive"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"transposed_attention: .*{message}"):
        transposed_attention(**inputs(**change))
