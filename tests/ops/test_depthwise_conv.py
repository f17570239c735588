"""What is particular to depthwise_conv."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moce_kernels import depthwise_conv
from tests.ops.spec import (
    activations,
    examples,
    sizes,
    skip_unless_compiled,
    skip_unless_it_runs,
)


def inputs(
    shape: tuple[int, int, int, int] = (1, 4, 6, 6), layout: str = "contiguous", kernel: int = 3
) -> list[Tensor]:
    channels = shape[1]
    weight, bias = torch.randn(channels, 1, kernel, kernel), torch.randn(channels)
    return [*activations(1, shape, layout), weight, bias]


def forward_and_backward(backend: str, grad: Tensor, *tensors: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = depthwise_conv(*leaves, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def test_reference_by_hand() -> None:
    """A cross-correlation, as in PyTorch: the tap (0, 0) reads the pixel up and to the left."""
    x = torch.arange(1.0, 10).view(1, 1, 3, 3)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 0, 0] = 10
    out = depthwise_conv(x, weight, torch.tensor([0.5]), backend="reference")
    assert out[0, 0].tolist() == [[0.5, 0.5, 0.5], [0.5, 10.5, 20.5], [0.5, 40.5, 50.5]]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(60), deadline=None)
@given(
    batch=st.integers(0, 2),
    channels=sizes(40),
    height=sizes(40),
    width=sizes(140),
    kernel=st.sampled_from([3, 7]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    kernel: int,
    layout: str,
    grad_layout: str,
) -> None:
    skip_unless_it_runs(backend, "depthwise_conv")
    torch.manual_seed(height * 141 + width)
    shape = (batch, channels, height, width)
    tensors = inputs(shape, layout, kernel)
    (grad,) = activations(1, shape, grad_layout)
    ours = forward_and_backward(backend, grad, *tensors)
    wide = [t.double() for t in (grad, *tensors)]
    exact = forward_and_backward("reference", *wide)
    # Rounding is relative to the sums of absolute values, which cancelling terms do not shrink.
    scale = forward_and_backward("reference", *(t.abs() for t in wide))
    for a, b, limit in zip(ours, exact, scale, strict=True):
        assert ((a - b).abs() <= 2e-6 * limit).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_keeps_the_layout_of_x(layout: str) -> None:
    skip_unless_it_runs("cpu", "depthwise_conv")
    tensors = inputs((2, 5, 9, 11), layout)
    assert depthwise_conv(*tensors, backend="cpu").stride() == tensors[0].stride()


def test_neighbours_do_not_leak() -> None:
    """Slices of a tensor full of NaN: what lies beside them in memory changes nothing."""
    skip_unless_it_runs("cpu", "depthwise_conv")
    for channels in (1, 3, 5, 12, 17):
        large = torch.full((2, 9, 11, channels + 7), float("nan"))
        large[:, 2:7, 3:9, 4 : 4 + channels] = torch.randn(2, 5, 6, channels)
        x = large[:, 2:7, 3:9, 4 : 4 + channels].permute(0, 3, 1, 2)
        tensors = x, torch.randn(channels, 1, 7, 7), torch.randn(channels)
        ours = forward_and_backward("cpu", x, *tensors)
        plain = forward_and_backward("reference", x, *tensors)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_second_derivatives() -> None:
    skip_unless_it_runs("cpu", "depthwise_conv")
    results = []
    for backend in ("cpu", "reference"):
        torch.manual_seed(0)
        tensors = [t.requires_grad_() for t in inputs((2, 3, 5, 4))]
        out = depthwise_conv(*tensors, backend=backend).square().sum()
        first = torch.autograd.grad(out, tensors, create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        results.append(torch.autograd.grad(penalty, tensors))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-2)


def test_weight_gradient_is_an_operator_of_its_own() -> None:
    skip_unless_it_runs("cpu", "depthwise_conv")
    operator = torch.ops.moce_kernels.depthwise_conv_backward_weight.default
    for layout in ("contiguous", "channels_last"):
        grad, x = (t.requires_grad_() for t in activations(2, (2, 3, 5, 4), layout))
        torch.library.opcheck(operator, (grad, x, 3))


def test_weights_keep_their_precision() -> None:
    """bfloat16 activations, float32 weights: exact up to the rounding of the result."""
    skip_unless_it_runs("cpu", "depthwise_conv")
    x, weight, bias = inputs((1, 4, 8, 8))
    x = x.bfloat16()
    out = depthwise_conv(x, weight, bias, backend="cpu")
    exact = depthwise_conv(x.double(), weight.double(), bias.double())
    assert out.dtype == torch.bfloat16
    assert ((out.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


@pytest.mark.parametrize(("capability", "name"), [("avx2", "avx2"), ("default", "baseline")])
def test_every_instruction_set(capability: str, name: str) -> None:
    """The same numbers from the kernels for older processors (rounding apart)."""
    skip_unless_compiled(name)
    program = """
import torch
from moce_kernels import depthwise_conv, native
torch.manual_seed(0)
for kernel in (3, 7):
    for channels in (4, 6, 20):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            weight = torch.randn(channels, 1, kernel, kernel).to(dtype).requires_grad_()
            bias = torch.randn(channels).to(dtype).requires_grad_()
            for layout in (torch.contiguous_format, torch.channels_last):
                x, grad = torch.randn(2, 1, channels, 18, 21).to(dtype)
                x = x.contiguous(memory_format=layout).requires_grad_()
                grad = grad.contiguous(memory_format=layout)
                results = []
                for backend in ("cpu", "reference"):
                    y = depthwise_conv(x, weight, bias, backend=backend)
                    results.append((y, *torch.autograd.grad(y, (x, weight, bias), grad)))
                for ours, plain in zip(*results):
                    limit = 1e-5 if dtype == torch.float32 else 1e-2
                    assert (ours - plain).norm() <= limit * plain.norm(), (kernel, channels, dtype)
print(native.cpu_capability())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != "avx512"


def test_autocast() -> None:
    x, weight, bias = inputs()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_conv(x, weight, bias)
        double = depthwise_conv(x.double(), weight, bias)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert double.dtype == torch.float64
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 6, 6)}, ValueError, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 4, 6, 6).long()}, TypeError, "x must be float32"),
        ({"x": torch.zeros(1, 5, 6, 6)}, ValueError, r"weight must have shape \(5, 1, 3, 3\)"),
        ({"weight": torch.zeros(4, 1, 5, 5)}, ValueError, r"weight must be \(C, 1, 3, 3\) or"),
        ({"weight": torch.tensor(3.0)}, ValueError, r"weight must be \(C, 1, 3, 3\) or"),
        ({"weight": torch.zeros(4, 1, 7, 3)}, ValueError, r"weight must have shape"),
        ({"weight": torch.zeros(4, 1, 3, 3).int()}, TypeError, "weight must be float32"),
        ({"bias": torch.ones(5)}, ValueError, r"bias must have shape \(4,\), not \(5,\)"),
        ({"bias": torch.ones(4, device="meta")}, ValueError, "bias is on meta"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    arguments = {**dict(zip(("x", "weight", "bias"), inputs(), strict=True)), **change}
    with pytest.raises(error, match=f"depthwise_conv: {message}"):
        depthwise_conv(**arguments)
