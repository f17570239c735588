"""Gated depthwise feed-forward network (GDFN) in one operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.ops.fold_norm import fold_norm
from moce_kernels.reference import gated_feedforward as reference
from moce_kernels.registry import Cost

OPERATOR = "gated_feedforward"


def gated_feedforward(
    x: Tensor,
    project_in: Tensor,
    depthwise: Tensor,
    project_out: Tensor,
    in_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    out_bias: Tensor | None = None,
    norm: _inputs.Norm = None,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """``x + W_o (GELU(a) * b)`` with ``a, b = DW3x3(W_i LayerNorm_C(x))``, halves of the channels.

    GDFN (Restormer, Zamir et al. 2022) with the LayerNorm before it and the sum after it, in one
    pass. Differentiable in all tensors; the backward pass recomputes the hidden features and stores
    only x.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x: (B, C, H, W).
        project_in: W_i, (2N, C).
        depthwise: (2N, 1, 3, 3).
        project_out: W_o, (C, N).
        in_bias, depthwise_bias, out_bias: (2N,), (2N,), (C,).
        norm: weight and bias, (C,) each, of a LayerNorm over channels; True: one without them;
            None: x as it is.
        eps: of the LayerNorm.

    Returns:
        (B, C, H, W).
    """
    (x,) = _inputs.autocast(x.device, x)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, x=x)
    _inputs.check_matrix(OPERATOR, "(C, N)", project_out=project_out)
    channels, hidden = x.shape[1], project_out.shape[1]
    parameters = {
        "project_in": (project_in, (2 * hidden, channels)),
        "depthwise": (depthwise, (2 * hidden, 1, 3, 3)),
        "project_out": (project_out, (channels, hidden)),
        "in_bias": (in_bias, (2 * hidden,)),
        "depthwise_bias": (depthwise_bias, (2 * hidden,)),
        "out_bias": (out_bias, (channels,)),
        **_inputs.of_norm(norm, channels),
    }
    _inputs.check_parameters(OPERATOR, x.device, parameters)
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    with _inputs.no_autocast(x.device):
        if runs == "reference":
            return reference.gated_feedforward(
                x, project_in, depthwise, project_out, in_bias, depthwise_bias, out_bias, norm, eps
            )
        project_in, in_bias = fold_norm(OPERATOR, project_in, in_bias, norm, x, runs)
        return _library.kernels(runs).gated_feedforward(
            x,
            project_in,
            in_bias,
            *_inputs.float_parameters(depthwise, depthwise_bias),
            _inputs.matrix(project_out, x, runs),
            *_inputs.float_parameters(out_bias),
            bool(norm),
            eps,
        )


def _cost(x: Tensor, project_in: Tensor, *_: Any) -> Cost:
    """For each pixel 3 C N products of the matrices and 18 N of the convolution; backward twice as
    many more. Forward reads x and writes the output; backward reads x and the gradient and writes
    one."""
    doubled, channels = project_in.shape
    operations = x.numel() // channels * doubled * (3 * channels + 18)
    return Cost(2 * x.nbytes, operations, 3 * x.nbytes, 2 * operations)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.norm, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved, needs = ctx.saved_tensors, ctx.needs_input_grad
    if _library.fuses_gradients(ops, grad):
        gradients = ops.gated_feedforward_backward(grad, *saved, ctx.norm, ctx.eps)
    else:
        gradients = _composed(ops, grad, *saved, norm=ctx.norm, eps=ctx.eps, needs=needs)
    return *(g if n else None for g, n in zip(gradients, needs[:7], strict=True)), None, None


def _composed(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    project_in: Tensor,
    in_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    project_out: Tensor,
    *,
    norm: bool,
    eps: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """The gradients as those of the parts, one after the other."""
    # Once for both products.
    project_in, project_out = _inputs.converted(x.dtype, project_in, project_out)
    hidden = ops.pointwise_conv(x, project_in, in_bias, None, norm, eps)
    gated = ops.gated_depthwise_conv(hidden, depthwise, depthwise_bias)
    dgated, dproject_out, dout_bias = ops.pointwise_conv_backward(
        grad, gated, project_out, None, False, eps, True, needs[5] or needs[6]
    )
    del gated
    dhidden, ddepthwise, ddepthwise_bias = ops.gated_depthwise_conv_backward(
        dgated, hidden, depthwise, depthwise_bias
    )
    del dgated, hidden
    dx, dproject_in, din_bias = ops.pointwise_conv_backward(
        dhidden, x, project_in, grad, norm, eps, needs[0], needs[1] or needs[2]
    )
    return dx, dproject_in, din_bias, ddepthwise, ddepthwise_bias, dproject_out, dout_bias


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    project_in: Tensor,
    in_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    project_out: Tensor,
    norm: bool,
    eps: float,
) -> tuple[Tensor, ...]:
    doubled, channels, new = *project_in.shape, project_in.new_empty
    return (
        _inputs.new_like(x),
        new(project_in.shape),
        new((doubled,)),
        new(depthwise.shape),
        new((doubled,)),
        new(project_out.shape),
        new((channels,)),
    )


_library.operator(
    OPERATOR,
    "(Tensor x, Tensor project_in, Tensor? in_bias, Tensor depthwise, Tensor? depthwise_bias,"
    " Tensor project_out, Tensor? out_bias, bool norm, float eps) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton"),
    composed=True,
    gradient_calls=("gated_depthwise_conv", "pointwise_conv"),
)
_library.declare(
    "gated_feedforward_backward",
    "(Tensor grad, Tensor x, Tensor project_in, Tensor? in_bias, Tensor depthwise,"
    " Tensor? depthwise_bias, Tensor project_out, bool norm, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)
