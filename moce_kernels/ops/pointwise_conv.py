"""1x1 convolution with a normalisation before it and a residual after it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.ops.fold_norm import fold_norm
from moce_kernels.reference import pointwise_conv as reference
from moce_kernels.registry import Cost

OPERATOR = "pointwise_conv"


def pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: _inputs.Norm = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """``W LayerNorm_C(x) + b + residual``: a matrix product for each pixel, in one pass.

    The projections of MDTA, GDFN and the experts, with the LayerNorm before and the sum after
    them. Differentiable in all tensors; the backward normalises again and stores nothing.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x: (B, C, H, W).
        weight: (N, C).
        bias: (N,).
        norm: weight and bias, (C,) each, of a LayerNorm over channels; True: one without them;
            None: x as it is.
        residual: (B, N, H, W).
        eps: of the LayerNorm.

    Returns:
        (B, N, H, W).
    """
    (x,) = _inputs.autocast(x.device, x)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, x=x)
    _inputs.check_matrix(OPERATOR, "(N, C)", weight=weight)
    inner, outer = x.shape[1], weight.shape[0]
    parameters = {
        "weight": (weight, (outer, inner)),
        "bias": (bias, (outer,)),
        **_inputs.of_norm(norm, inner),
    }
    _inputs.check_parameters(OPERATOR, x.device, parameters)
    residual = _inputs.beside(OPERATOR, "residual", residual, x, outer)
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    if runs == "reference":
        with _inputs.no_autocast(x.device):
            return reference.pointwise_conv(x, weight, bias, norm, residual, eps)
    with _inputs.no_autocast(x.device):
        weight, bias = fold_norm(OPERATOR, weight, bias, norm, x, runs)
    return _library.kernels(runs).pointwise_conv(x, weight, bias, residual, bool(norm), eps)


def _cost(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, norm: bool, eps: float
) -> Cost:
    """C products for each of N outputs; backward twice as many more. Forward reads C channels and
    the residual and writes N; backward reads C and N and writes C."""
    outer, inner = weight.shape
    pixels = x.numel() // inner
    operations = 2 * pixels * inner * outer
    moved = inner + outer + (0 if residual is None else outer)
    size = x.element_size()
    return Cost(
        pixels * moved * size, operations, pixels * (2 * inner + outer) * size, 2 * operations
    )


def _fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x, weight.shape[0])


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    plus: Tensor | None,
    norm: bool,
    eps: float,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = weight.shape[0] if needs_weight else 0
    new = functools.partial(weight.new_empty, dtype=torch.float32)
    dx = _inputs.new_like(x) if needs_x else new((0,))
    return dx, new((rows, weight.shape[1])), new((rows,))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, _, ctx.norm, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, needs_residual, *_ = ctx.needs_input_grad
    dx = dweight = dbias = None
    if needs_x or needs_weight or needs_bias:
        dx, dweight, dbias = ops.pointwise_conv_backward(
            grad, x, weight, None, ctx.norm, ctx.eps, needs_x, needs_weight or needs_bias
        )
    return (
        dx if needs_x else None,
        dweight if needs_weight else None,
        dbias if needs_bias else None,
        grad if needs_residual else None,
        None,
        None,
    )


_library.operator(
    OPERATOR,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool norm, float eps) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton"),
)
# plus: what is added to the gradient of x, that of a residual.
_library.declare(
    "pointwise_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor? plus, bool norm, float eps, bool needs_x,"
    " bool needs_weight) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
