"""What is particular to gated_depthwise_conv."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moce_kernels import gated_depthwise_conv
from tests.ops.spec import (
    activations,
    examples,
    sizes,
    skip_unless_it_runs,
)


def inputs(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    given = {"x": torch.randn(2, 4, 5, 6), "weight": torch.randn(4, 1, 3, 3)}
    return {**given, "bias": torch.randn(4), **changes}


def test_reference_by_hand() -> None:
    """The first half is what goes through GELU."""
    x = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    weight = torch.zeros(2, 1, 3, 3)
    weight[:, 0, 1, 1] = 1
    out = gated_depthwise_conv(x, weight, backend="reference")
    assert out.item() == pytest.approx(-2 * 0.8413447)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(40), deadline=None)
@given(
    batch=st.integers(0, 2),
    channels=sizes(20),
    height=sizes(70),
    width=sizes(70),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    layout: str,
    grad_layout: str,
) -> None:
    skip_unless_it_runs(backend, "gated_depthwise_conv")
    torch.manual_seed(height * 71 + width)
    (x,) = activations(1, (batch, 2 * channels, height, width), layout)
    (grad,) = activations(1, (batch, channels, height, width), grad_layout)
    parameters = torch.randn(2 * channels, 1, 3, 3), torch.randn(2 * channels)
    results = []
    for runs, dtype in ((backend, torch.float32), ("reference", torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, *parameters)]
        out = gated_depthwise_conv(*leaves, backend=runs)
        results.append((out, *torch.autograd.grad(out, leaves, grad.to(dtype))))
    for ours, exact in zip(*results, strict=True):
        scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=2e-6 * scale)


def test_gelu_over_its_whole_range() -> None:
    """Far tails included: relative to the value, where float32 has normal numbers."""
    skip_unless_it_runs("cpu", "gated_depthwise_conv")
    x = torch.cat([torch.linspace(-13, 13, 4001), torch.tensor([-100.0, 0.0, 100.0])])
    image = torch.stack([x, torch.ones_like(x)]).view(1, 2, 1, -1).requires_grad_()
    weight = torch.zeros(2, 1, 3, 3)
    weight[:, 0, 1, 1] = 1
    out = gated_depthwise_conv(image, weight, backend="cpu")
    (grad,) = torch.autograd.grad(out.sum(), image)
    wide = x.double()
    phi = torch.special.erfc(-wide / 2**0.5) / 2  # ndtr and F.gelu lose the lower tail
    bell = torch.exp(-(wide**2) / 2) / (2 * torch.pi) ** 0.5
    torch.testing.assert_close(out.flatten().double(), wide * phi, rtol=1e-5, atol=1e-37)
    slope = grad[0, 0, 0].double()
    torch.testing.assert_close(slope, phi + wide * bell, rtol=1e-5, atol=3e-7)


def test_neighbours_do_not_leak() -> None:
    """Slices of a tensor full of NaN: what lies beside them in memory changes nothing."""
    skip_unless_it_runs("cpu", "gated_depthwise_conv")
    for channels in (2, 6, 10, 34):
        large = torch.full((2, 9, 11, channels + 7), float("nan"))
        large[:, 2:7, 3:9, 4 : 4 + channels] = torch.randn(2, 5, 6, channels)
        x = large[:, 2:7, 3:9, 4 : 4 + channels].permute(0, 3, 1, 2)
        weight = torch.randn(channels, 1, 3, 3)
        results = []
        for backend in ("cpu", "reference"):
            leaves = x.detach().requires_grad_(), weight.requires_grad_()
            out = gated_depthwise_conv(*leaves, backend=backend)
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert gated_depthwise_conv(**inputs(), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 6, 6)}, ValueError, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 3, 5, 6)}, ValueError, "x must have an even number of channels"),
        ({"x": torch.zeros(1, 4, 5, 6).long()}, TypeError, "x must be float32"),
        ({"weight": torch.zeros(4, 1, 7, 7)}, ValueError, "weight must have shape"),
        ({"bias": torch.ones(2)}, ValueError, r"bias must have shape \(4,\)"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"gated_depthwise_conv: {message}"):
        gated_depthwise_conv(**inputs(**change))
