"""A 1x1 convolution followed by a depthwise convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.ops.fold_norm import fold_norm
from moce_kernels.reference import projected_depthwise_conv as reference
from moce_kernels.registry import Cost

OPERATOR = "projected_depthwise_conv"


def projected_depthwise_conv(
    x: Tensor,
    weight: Tensor,
    depthwise: Tensor,
    bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    norm: _inputs.Norm = None,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """``DWKxK(W LayerNorm_C(x) + b)``, stride 1, zero padding of the projection, in one pass.

    The front of MDTA and of the cross attention: queries, keys and values. Differentiable in all
    tensors; the backward pass projects again and stores only x.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x: (B, C, H, W).
        weight: W, (N, C).
        depthwise: (N, 1, K, K), K 3 or 7.
        bias, depthwise_bias: (N,).
        norm: weight and bias, (C,) each, of a LayerNorm over channels; True: one without them;
            None: x as it is.
        eps: of the LayerNorm.

    Returns:
        (B, N, H, W).
    """
    (x,) = _inputs.autocast(x.device, x)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, x=x)
    if depthwise.dim() != 4 or depthwise.shape[0] == 0 or depthwise.shape[3] not in (3, 7):
        raise ValueError(
            f"{OPERATOR}: depthwise must be (N, 1, K, K) with K 3 or 7, "
            f"not {tuple(depthwise.shape)}"
        )
    inner, outer, kernel = x.shape[1], depthwise.shape[0], depthwise.shape[3]
    parameters = {
        "weight": (weight, (outer, inner)),
        "depthwise": (depthwise, (outer, 1, kernel, kernel)),
        "bias": (bias, (outer,)),
        "depthwise_bias": (depthwise_bias, (outer,)),
        **_inputs.of_norm(norm, inner),
    }
    _inputs.check_parameters(OPERATOR, x.device, parameters)
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    with _inputs.no_autocast(x.device):
        if runs == "reference":
            return reference.projected_depthwise_conv(
                x, weight, depthwise, bias, depthwise_bias, norm, eps
            )
        weight, bias = fold_norm(OPERATOR, weight, bias, norm, x, runs)
        return _library.kernels(runs).projected_depthwise_conv(
            x,
            weight,
            bias,
            *_inputs.float_parameters(depthwise, depthwise_bias),
            bool(norm),
            eps,
        )


def _cost(x: Tensor, weight: Tensor, bias: Tensor | None, depthwise: Tensor, *_: Any) -> Cost:
    """C + K^2 products for each of N outputs; backward twice as many more. Forward reads C channels
    and writes N; backward reads C and N and writes C."""
    outer, inner = weight.shape
    pixels, size = x.numel() // inner, x.element_size()
    operations = 2 * pixels * outer * (inner + depthwise.shape[-1] ** 2)
    return Cost(
        pixels * (inner + outer) * size,
        operations,
        pixels * (2 * inner + outer) * size,
        2 * operations,
    )


def _fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x, weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, depthwise, _, ctx.norm, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias, depthwise)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, depthwise = ctx.saved_tensors
    needs = ctx.needs_input_grad[:5]
    if _library.fuses_gradients(ops, grad):
        found = ops.projected_depthwise_conv_backward(
            grad, x, weight, bias, depthwise, ctx.norm, ctx.eps
        )
        return *(g if n else None for g, n in zip(found, needs, strict=True)), None, None
    projected, weight = None, weight.to(x.dtype)  # once for both products
    if needs[3] or needs[4]:
        projected = ops.pointwise_conv(x, weight, bias, None, ctx.norm, ctx.eps)
    return (
        *gradients(ops, grad, x, weight, depthwise, projected, ctx.norm, ctx.eps, needs),
        None,
        None,
    )


def gradients(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    depthwise: Tensor,
    projected: Tensor | None,
    norm: bool,
    eps: float,
    needs: tuple[bool, ...],
    plus: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Those of x, weight, bias, depthwise and depthwise_bias that ``needs`` asks for, from what
    the depthwise convolution took. plus: added to that of x."""
    ddepthwise = ddepthwise_bias = None
    if needs[3] or needs[4]:
        ddepthwise, ddepthwise_bias = ops.depthwise_conv_backward_weight(
            grad, projected, depthwise.shape[-1]
        )
    dx = dweight = dbias = None
    if any(needs[:3]):
        dprojected = ops.depthwise_conv(grad, depthwise, None, True)
        dx, dweight, dbias = ops.pointwise_conv_backward(
            dprojected, x, weight, plus, norm, eps, needs[0], needs[1] or needs[2]
        )
    found = (dx, dweight, dbias, ddepthwise, ddepthwise_bias)
    return tuple(g if n else None for g, n in zip(found, needs, strict=True))


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    depthwise: Tensor,
    norm: bool,
    eps: float,
) -> tuple[Tensor, ...]:
    outer, new = weight.shape[0], weight.new_empty
    return (
        _inputs.new_like(x),
        new(weight.shape),
        new((outer,)),
        new(depthwise.shape),
        new((outer,)),
    )


_library.operator(
    OPERATOR,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor depthwise, Tensor? depthwise_bias, bool norm,"
    " float eps) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton"),
    composed=True,
    gradient_calls=("depthwise_conv", "pointwise_conv"),
)
_library.declare(
    "projected_depthwise_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor? bias, Tensor depthwise, bool norm, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)
