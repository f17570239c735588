"""Window FFT attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import fft_attention as reference
from moce_kernels.registry import Cost

OPERATOR = "fft_attention"


def fft_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: int,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """``LayerNorm_C(q (*) k) * v``, with ``(*)`` the circular convolution of each window.

    The attention of a complexity expert (eq. 2 of the paper), without its projections: q and k
    are cut into ``window`` x ``window`` tiles, zero-padded at the right and bottom edge, and each
    channel of each tile of q is convolved circularly with that of k; LayerNorm over the channels of
    each pixel; product with v. There is no softmax. Differentiable in all five tensors.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        q, k, v: (B, C, H, W).
        weight, bias: (C,), LayerNorm's.
        window: 4, 8, 16 or 32.
        eps: added to the variance.

    Returns:
        (B, C, H, W).
    """
    q, k, v = _inputs.autocast(q.device, q, k, v)
    _inputs.check_window(OPERATOR, window)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, q=q, k=k, v=v)
    parameters = {"weight": (weight, (q.shape[1],)), "bias": (bias, (q.shape[1],))}
    _inputs.check_parameters(OPERATOR, q.device, parameters)
    runs = backends.choose(OPERATOR, backend, q.device, q.dtype)
    if runs == "reference":
        with _inputs.no_autocast(q.device):
            return reference.fft_attention(q, k, v, weight, bias, window, eps)
    return _library.kernels(runs).fft_attention(
        q, k, v, *_inputs.float_parameters(weight, bias), window, eps
    )


def _cost(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, window: int, _: Any
) -> Cost:
    """A real transform of a P x P window takes 2.5 P^2 log2(P^2) = 5 P^2 log2 P operations; there
    are 3 forward and 6 more backward. Product, LayerNorm and gate take 11 for each value, their
    gradients 24. Forward moves q, k, v and the output; backward four inputs and three gradients."""
    transform = 5 * math.log2(window)
    return Cost(
        4 * q.nbytes,
        q.numel() * (3 * transform + 11),
        7 * q.nbytes,
        q.numel() * (6 * transform + 24),
    )


def _fake(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, window: int, eps: float
) -> Tensor:
    return _inputs.new_like(q)


def _fake_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: int,
    eps: float,
) -> tuple[Tensor, ...]:
    return (*map(_inputs.new_like, (q, k, v)), torch.empty_like(weight), torch.empty_like(bias))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.window, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = ops.fft_attention_backward(grad, *ctx.saved_tensors, ctx.window, ctx.eps)
    return *grads, None, None


_library.operator(
    OPERATOR,
    "(Tensor q, Tensor k, Tensor v, Tensor weight, Tensor bias, int window, float eps) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton", "cuda"),
)
_library.declare(
    "fft_attention_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor weight, Tensor bias, int window, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)
