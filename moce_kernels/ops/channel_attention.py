"""Attention over channels with its output projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import channel_attention as reference
from moce_kernels.registry import Cost

OPERATOR = "channel_attention"


def channel_attention(
    query: Tensor,
    key_value: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``W softmax(q^ k^T * temperature) v + b + residual``, the softmax for each head.

    The core of MDTA (Restormer, Zamir et al. 2022; eq. 3 of the paper) and of the cross attention
    that fuses the experts. q^ and k^ are the rows (one channel, all pixels) scaled to unit L2 norm,
    so that a head's matrix is c x c whatever the image's size, c = C / heads. The kernels take two
    passes: one for q k^T and the lengths, one that multiplies v with W times the matrices.
    Differentiable in all tensors.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        query: (B, C, H, W); if ``key_value`` is None, q, k and v concatenated, (B, 3C, H, W).
        key_value: (B, 2C, H, W), k before v.
        temperature: (heads,), heads a divisor of C.
        weight: (N, C), the output projection.
        bias: (N,).
        residual: (B, N, H, W).

    Returns:
        (B, N, H, W).
    """
    (query,) = _inputs.autocast(query.device, query)
    _inputs.check_same(OPERATOR, query=query)
    channels = query.shape[1]
    if key_value is None:
        if channels % 3:
            raise ValueError(
                f"{OPERATOR}: query must be (B, 3C, H, W) without key_value, not "
                f"{tuple(query.shape)}"
            )
        channels //= 3
    else:
        key_value = _inputs.beside(OPERATOR, "key_value", key_value, query, 2 * channels)
    _inputs.check_heads(OPERATOR, temperature, channels)
    _inputs.check_matrix(OPERATOR, "(N, C)", weight=weight)
    outer = weight.shape[0]
    parameters = {
        "temperature": (temperature, tuple(temperature.shape)),
        "weight": (weight, (outer, channels)),
        "bias": (bias, (outer,)),
    }
    _inputs.check_parameters(OPERATOR, query.device, parameters)
    residual = _inputs.beside(OPERATOR, "residual", residual, query, outer)
    runs = backends.choose(OPERATOR, backend, query.device, query.dtype)
    if runs == "reference":
        with _inputs.no_autocast(query.device):
            return reference.channel_attention(
                query, key_value, temperature, weight, bias, residual
            )
    out, _, _ = _library.kernels(runs).channel_attention(
        query, key_value, *_inputs.float_parameters(temperature, weight, bias), residual
    )
    return out


def _cost(
    query: Tensor,
    key_value: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
) -> Cost:
    """C / heads products for each of C channels to compare them, N C to project; backward twice as
    many more. Forward reads q, k, v and the residual; backward q, k, v and the gradient, and writes
    three gradients."""
    outer, channels = weight.shape
    pixels, size = query.numel() // query.shape[1], query.element_size()
    operations = 2 * pixels * channels * (channels // temperature.shape[0] + outer)
    results = outer * (1 if residual is None else 2)
    return Cost(
        pixels * (3 * channels + results) * size,
        operations,
        pixels * (6 * channels + outer) * size,
        2 * operations,
    )


def _fake(
    query: Tensor, key_value: Tensor | None, temperature: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    batch, (outer, channels), heads = query.shape[0], weight.shape, temperature.shape[0]
    c = channels // heads
    return (
        _inputs.new_like(query, outer),
        weight.new_empty((batch, heads, c, c)),
        weight.new_empty((batch, 2, channels)),
    )


def _fake_backward(
    grad: Tensor,
    query: Tensor,
    key_value: Tensor | None,
    gram: Tensor,
    squares: Tensor,
    temperature: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _inputs.new_like(query),
        weight.new_empty((0,)) if key_value is None else _inputs.new_like(key_value),
        torch.empty_like(temperature),
        torch.empty_like(weight),
        weight.new_empty((weight.shape[0],)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key_value, temperature, weight, _, _ = inputs
    _, gram, squares = output
    ctx.save_for_backward(query, key_value, gram, squares, temperature, weight)
    ctx.mark_non_differentiable(gram, squares)
    ctx.set_materialize_grads(False)  # zeros for what has no gradient


def _backward(ops: Any, ctx: Any, grad: Tensor, *of_sums: None) -> tuple[Tensor | None, ...]:
    _, key_value, *_ = ctx.saved_tensors
    dquery, dkey_value, dtemperature, dweight, dbias = ops.channel_attention_backward(
        grad, *ctx.saved_tensors
    )
    return (
        dquery,
        None if key_value is None else dkey_value,
        dtemperature,
        dweight,
        dbias if ctx.needs_input_grad[4] else None,
        grad if ctx.needs_input_grad[5] else None,
    )


# gram: q k^T, (B, heads, c, c); squares: the sums of q^2 and of k^2, (B, 2, C); both float32.
_library.operator(
    OPERATOR,
    "(Tensor query, Tensor? key_value, Tensor temperature, Tensor weight, Tensor? bias,"
    " Tensor? residual) -> (Tensor out, Tensor gram, Tensor squares)",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton"),
)
_library.declare(
    "channel_attention_backward",
    "(Tensor grad, Tensor query, Tensor? key_value, Tensor gram, Tensor squares,"
    " Tensor temperature, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)
