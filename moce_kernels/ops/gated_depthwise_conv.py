"""Depthwise 3x3 convolution with a GELU gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import gated_depthwise_conv as reference
from moce_kernels.registry import Cost

OPERATOR = "gated_depthwise_conv"


def gated_depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """``GELU(a) * b`` with ``a, b = DW3x3(x)``, halves of the channels; stride 1, zero padding.

    The middle of GDFN (Restormer, Zamir et al. 2022). Differentiable in all three tensors; the
    backward convolves again and stores nothing.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x: (B, 2C, H, W).
        weight: (2C, 1, 3, 3).
        bias: (2C,).

    Returns:
        (B, C, H, W).
    """
    (x,) = _inputs.autocast(x.device, x)
    _inputs.check_same(OPERATOR, x=x)
    channels = x.shape[1]
    if channels % 2:
        raise ValueError(
            f"{OPERATOR}: x must have an even number of channels, not {tuple(x.shape)}"
        )
    parameters = {"weight": (weight, (channels, 1, 3, 3)), "bias": (bias, (channels,))}
    _inputs.check_parameters(OPERATOR, x.device, parameters)
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    if runs == "reference":
        with _inputs.no_autocast(x.device):
            return reference.gated_depthwise_conv(x, weight, bias)
    return _library.kernels(runs).gated_depthwise_conv(x, *_inputs.float_parameters(weight, bias))


def _cost(x: Tensor, weight: Tensor, bias: Tensor | None) -> Cost:
    """9 products for each value of x; backward three times as many more, for it convolves again.
    Forward reads 2 C channels and writes C; backward reads both and writes a gradient."""
    operations = 18 * x.numel()
    return Cost(1.5 * x.nbytes, operations, 2.5 * x.nbytes, 3 * operations)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _inputs.new_like(x, x.shape[1] // 2)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _inputs.new_like(x), torch.empty_like(weight), weight.new_empty((x.shape[1],))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias = ops.gated_depthwise_conv_backward(grad, *ctx.saved_tensors)
    return dx, dweight, dbias if ctx.needs_input_grad[2] else None


_library.operator(
    OPERATOR,
    "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton", "cuda"),
)
_library.declare(
    "gated_depthwise_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
