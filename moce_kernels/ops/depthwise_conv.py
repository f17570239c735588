"""Depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import depthwise_conv as reference
from moce_kernels.registry import Cost

OPERATOR = "depthwise_conv"


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Convolve each channel of x with its own K x K kernel, stride 1, zero padding K // 2.

    The convolution of the projections of GDFN (3 x 3), of the experts' queries (3 x 3) and of keys
    and values (7 x 7). Differentiable in all three tensors, any number of times.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, K, K), K 3 or 7.
        bias: (C,).

    Returns:
        (B, C, H, W).
    """
    (x,) = _inputs.autocast(x.device, x)
    _inputs.check_same(OPERATOR, x=x)
    channels, kernel = x.shape[1], weight.shape[-1] if weight.dim() else 0
    if kernel not in (3, 7):
        raise ValueError(
            f"{OPERATOR}: weight must be (C, 1, 3, 3) or (C, 1, 7, 7), not {tuple(weight.shape)}"
        )
    shapes = {"weight": (weight, (channels, 1, kernel, kernel)), "bias": (bias, (channels,))}
    _inputs.check_parameters(OPERATOR, x.device, shapes)
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    if runs == "reference":
        with _inputs.no_autocast(x.device):
            return reference.depthwise_conv(x, weight, bias)
    parameters = _inputs.float_parameters(weight, bias)
    return _library.kernels(runs).depthwise_conv(x, *parameters, False)


def _cost(x: Tensor, weight: Tensor, bias: Tensor | None, flip: bool) -> Cost:
    """K^2 products for each value; backward twice as many more. Forward reads x and writes the
    output; backward reads the gradient twice and x, and writes a gradient."""
    operations = 2 * weight.shape[-1] ** 2 * x.numel()
    return Cost(2 * x.nbytes, operations, 4 * x.nbytes, 2 * operations)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.flip = inputs
    ctx.save_for_backward(x, weight)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
    dx = dweight = dbias = None
    if needs_x:
        dx = ops.depthwise_conv(grad, weight, None, not ctx.flip)
    if needs_weight or needs_bias:
        dweight, dbias = ops.depthwise_conv_backward_weight(grad, x, weight.shape[-1])
        if ctx.flip:
            dweight = dweight.flip(2, 3)
    return dx, dweight if needs_weight else None, dbias if needs_bias else None, None


# With `flip` the taps are reversed: the gradient of x is such a convolution of that of the output.
_library.operator(
    OPERATOR,
    "(Tensor x, Tensor weight, Tensor? bias, bool flip) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton", "cuda"),
    again=True,
)


# The gradients of weight and bias are sums of products of grad and x: linear in each.


def _fake_weight(grad: Tensor, x: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    weight = x.new_empty((channels, 1, kernel, kernel), dtype=torch.float32)
    return weight, x.new_empty((channels,), dtype=torch.float32)


def _setup_context_weight(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, x, _ = inputs
    ctx.save_for_backward(grad, x)


def _backward_weight(
    ops: Any, ctx: Any, by_weight: Tensor, by_bias: Tensor
) -> tuple[Tensor | None, ...]:
    grad, x = ctx.saved_tensors
    needs_grad, needs_x, _ = ctx.needs_input_grad
    by_weight = by_weight.contiguous()
    return (
        ops.depthwise_conv(x, by_weight, by_bias.contiguous(), False) if needs_grad else None,
        ops.depthwise_conv(grad, by_weight, None, True) if needs_x else None,
        None,
    )


_library.declare(
    "depthwise_conv_backward_weight",
    "(Tensor grad, Tensor x, int kernel) -> (Tensor, Tensor)",
    _fake_weight,
    _setup_context_weight,
    _backward_weight,
    again=True,
)
