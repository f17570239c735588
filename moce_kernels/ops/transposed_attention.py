"""Multi-Dconv head transposed attention (MDTA) in one operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library, projected_depthwise_conv
from moce_kernels.ops.fold_norm import fold_norm
from moce_kernels.reference import transposed_attention as reference
from moce_kernels.registry import Cost

OPERATOR = "transposed_attention"


def transposed_attention(
    x: Tensor,
    qkv: Tensor,
    depthwise: Tensor,
    temperature: Tensor,
    weight: Tensor,
    qkv_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    bias: Tensor | None = None,
    norm: _inputs.Norm = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """``channel_attention`` of ``q, k, v = DW3x3(W_qkv LayerNorm_C(x))``.

    MDTA (Restormer, Zamir et al. 2022; eq. 3 of the paper) with the LayerNorm before it and the sum
    after it. The first pass over the pixels computes q, k and v and keeps the sums q k^T and v;
    the second multiplies v, so q and k never reach memory. Differentiable in all tensors; the
    backward pass recomputes them and stores x and the sums.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x: (B, C, H, W).
        qkv: W_qkv, (3N, C): q, k and v beside each other.
        depthwise: (3N, 1, 3, 3).
        temperature: (heads,), heads a divisor of N.
        weight: (M, N), the output projection.
        qkv_bias, depthwise_bias, bias: (3N,), (3N,), (M,).
        norm: weight and bias, (C,) each, of a LayerNorm over channels; True: one without them;
            None: x as it is.
        residual: (B, M, H, W).
        eps: of the LayerNorm.

    Returns:
        (B, M, H, W).
    """
    (x,) = _inputs.autocast(x.device, x)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, x=x)
    _inputs.check_matrix(OPERATOR, "(M, N)", weight=weight)
    inner, (outer, channels) = x.shape[1], weight.shape
    _inputs.check_heads(OPERATOR, temperature, channels)
    parameters = {
        "qkv": (qkv, (3 * channels, inner)),
        "depthwise": (depthwise, (3 * channels, 1, 3, 3)),
        "temperature": (temperature, tuple(temperature.shape)),
        "weight": (weight, (outer, channels)),
        "qkv_bias": (qkv_bias, (3 * channels,)),
        "depthwise_bias": (depthwise_bias, (3 * channels,)),
        "bias": (bias, (outer,)),
        **_inputs.of_norm(norm, inner),
    }
    _inputs.check_parameters(OPERATOR, x.device, parameters)
    residual = _inputs.beside(OPERATOR, "residual", residual, x, outer)
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    with _inputs.no_autocast(x.device):
        if runs == "reference":
            biases = qkv_bias, depthwise_bias, bias
            return reference.transposed_attention(
                x, qkv, depthwise, temperature, weight, *biases, norm, residual, eps
            )
        qkv, qkv_bias = fold_norm(OPERATOR, qkv, qkv_bias, norm, x, runs)
        out, _, _ = _library.kernels(runs).transposed_attention(
            x,
            qkv,
            qkv_bias,
            *_inputs.float_parameters(depthwise, depthwise_bias, temperature, weight, bias),
            residual,
            bool(norm),
            eps,
        )
    return out


def _cost(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: bool,
    eps: float,
) -> Cost:
    """For each pixel 3 N (C + 9) products to make q, k and v, N^2 / heads to compare them, N M to
    project; backward twice as many more. Forward reads x, writes v and reads it again, reads the
    residual and writes the output; backward reads x and the gradient and writes one."""
    inner, (outer, channels) = x.shape[1], weight.shape
    pixels, size = x.numel() // inner, x.element_size()
    compare = channels // temperature.shape[0]
    operations = 2 * pixels * channels * (3 * (inner + 9) + compare + outer)
    results = outer * (1 if residual is None else 2)
    return Cost(
        pixels * (inner + 2 * channels + results) * size,
        operations,
        pixels * (2 * inner + outer) * size,
        2 * operations,
    )


def _fake(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, (outer, channels), heads = x.shape[0], weight.shape, temperature.shape[0]
    c = channels // heads
    return (
        _inputs.new_like(x, outer),
        weight.new_empty((batch, heads, c, c)),
        weight.new_empty((batch, 2, channels)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, qkv, qkv_bias, depthwise, depthwise_bias, temperature, weight, _, residual, norm, eps = (
        inputs
    )
    _, gram, squares = output
    ctx.norm, ctx.eps = norm, eps
    ctx.adds_x = residual is x
    ctx.save_for_backward(
        x, qkv, qkv_bias, depthwise, depthwise_bias, temperature, weight, gram, squares
    )
    ctx.mark_non_differentiable(gram, squares)
    ctx.set_materialize_grads(False)  # zeros for what has no gradient


def _backward(ops: Any, ctx: Any, grad: Tensor, *of_sums: None) -> tuple[Tensor | None, ...]:
    saved, needs = ctx.saved_tensors, ctx.needs_input_grad
    if _library.fuses_gradients(ops, grad):
        gradients = ops.transposed_attention_backward(grad, *saved, ctx.norm, ctx.eps, ctx.adds_x)
    else:
        gradients = _composed(
            ops,
            grad,
            *saved,
            plus=grad if ctx.adds_x else None,
            norm=ctx.norm,
            eps=ctx.eps,
            needs=needs[:5],
        )
    found = (*gradients, None if ctx.adds_x else grad)  # else it is in that of x
    return *(g if n else None for g, n in zip(found, needs[:9], strict=True)), None, None


def _composed(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    gram: Tensor,
    squares: Tensor,
    *,
    plus: Tensor | None,
    norm: bool,
    eps: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """The gradients as those of the parts, one after the other."""
    qkv = qkv.to(x.dtype)  # once for both products
    projected = ops.pointwise_conv(x, qkv, qkv_bias, None, norm, eps)
    query = ops.depthwise_conv(projected, depthwise, depthwise_bias, False)
    dquery, _, dtemperature, dweight, dbias = ops.channel_attention_backward(
        grad, query, None, gram, squares, temperature, weight
    )
    del query
    gradients = projected_depthwise_conv.gradients(
        ops, dquery, x, qkv, depthwise, projected, norm, eps, needs, plus
    )
    return *gradients, dtemperature, dweight, dbias


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    tripled, new = qkv.shape[0], qkv.new_empty
    return (
        _inputs.new_like(x),
        new(qkv.shape),
        new((tripled,)),
        new(depthwise.shape),
        new((tripled,)),
        new(temperature.shape),
        new(weight.shape),
        new(weight.shape[:1]),
    )


# gram: q k^T, (B, heads, c, c); squares: the sums of q^2 and of k^2, (B, 2, N); both float32.
_library.operator(
    OPERATOR,
    "(Tensor x, Tensor qkv, Tensor? qkv_bias, Tensor depthwise, Tensor? depthwise_bias,"
    " Tensor temperature, Tensor weight, Tensor? bias, Tensor? residual, bool norm, float eps)"
    " -> (Tensor out, Tensor gram, Tensor squares)",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton"),
    composed=True,
    gradient_calls=("channel_attention", "depthwise_conv", "pointwise_conv"),
)
_library.declare(
    "transposed_attention_backward",
    "(Tensor grad, Tensor x, Tensor qkv, Tensor? qkv_bias, Tensor depthwise,"
    " Tensor? depthwise_bias, Tensor temperature, Tensor weight, Tensor gram, Tensor squares,"
    " bool norm, float eps, bool add_grad)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)
