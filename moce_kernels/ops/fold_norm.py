"""LayerNorm's scale and shift, as part of the 1x1 convolution that follows it.

``W (scale n + shift) + b`` is ``(W scale) n + (W shift + b)``: the kernels multiply with the matrix
in the first parentheses and add what is in the second. It is a step of the operators with a norm,
not a public one. On a GPU it is one launch, and its gradients are another; elsewhere it is plain
PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels.ops import _inputs, _library


def fold_norm(
    operator: str,
    weight: Tensor,
    bias: Tensor | None,
    norm: _inputs.Norm,
    x: Tensor,
    runs: str,
) -> tuple[Tensor, Tensor | None]:
    """The weight (N, C) and bias (N,) of the product that takes what is normalised.

    operator, x, runs: what has the product, its activations and its backend.
    """
    if norm is None or isinstance(norm, bool):
        (bias,) = _inputs.float_parameters(bias)
        return _inputs.matrix(weight, x, runs), bias
    if runs in ("triton", "cuda"):
        fold = _library.kernels("triton").fold_norm
        if torch.compiler.is_compiling():
            return fold(weight, bias, *norm)
        return _library.named(operator, fold, weight, bias, *norm)
    weight, (scale, shift) = weight.float(), (t.float() for t in norm)
    bias = None if bias is None else bias.float()
    bias = torch.mv(weight, shift) if bias is None else torch.addmv(bias, weight, shift)
    return (weight * scale).contiguous(), bias


def _fake(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    return (
        weight.new_empty(weight.shape, dtype=torch.float32),
        weight.new_empty(weight.shape[:1], dtype=torch.float32),
    )


def _fake_backward(
    dfolded: Tensor, dbias: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    new = dfolded.new_empty
    return new(weight.shape), new(scale.shape), new(shift.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weight, _, scale, shift = inputs
    ctx.save_for_backward(weight, scale, shift)


def _backward(ops: Any, ctx: Any, dfolded: Tensor, dbias: Tensor) -> tuple[Tensor | None, ...]:
    dweight, dscale, dshift = ops.fold_norm_backward(dfolded, dbias, *ctx.saved_tensors)
    return dweight, dbias if ctx.needs_input_grad[1] else None, dscale, dshift


_library.declare(
    "fold_norm",
    "(Tensor weight, Tensor? bias, Tensor scale, Tensor shift) -> (Tensor, Tensor)",
    _fake,
    _setup_context,
    _backward,
)
_library.declare(
    "fold_norm_backward",
    "(Tensor dfolded, Tensor dbias, Tensor weight, Tensor scale, Tensor shift)"
    " -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
