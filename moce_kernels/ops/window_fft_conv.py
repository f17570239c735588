"""Circular convolution of windows, without the rest of FFT attention."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import window_fft_conv as reference
from moce_kernels.registry import Cost

OPERATOR = "window_fft_conv"


def window_fft_conv(q: Tensor, k: Tensor, window: int, backend: str | None = None) -> Tensor:
    """``q (*) k``: each channel of each window of q convolved circularly with that of k.

    ``fft_attention`` without LayerNorm and product: ``irfft2(rfft2(q) * rfft2(k))`` of each
    ``window`` x ``window`` tile, zero-padded at the right and bottom edge. Differentiable in both.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        q, k: (B, C, H, W).
        window: 4, 8, 16 or 32.

    Returns:
        (B, C, H, W).
    """
    q, k = _inputs.autocast(q.device, q, k)
    _inputs.check_window(OPERATOR, window)
    _inputs.check_same(OPERATOR, q=q, k=k)
    runs = backends.choose(OPERATOR, backend, q.device, q.dtype)
    if runs == "reference":
        with _inputs.no_autocast(q.device):
            return reference.window_fft_conv(q, k, window).to(q.dtype)
    return _library.kernels(runs).window_fft_conv(q, k, window)


def _cost(q: Tensor, k: Tensor, window: int) -> Cost:
    """A real transform of a P x P window takes 5 P^2 log2 P operations; there are 3 forward and 5
    more backward, and 3 for each value of a product of spectra. Forward moves q, k and the output;
    backward three inputs and two gradients."""
    transform = 5 * math.log2(window)
    return Cost(
        3 * q.nbytes, q.numel() * (3 * transform + 3), 5 * q.nbytes, q.numel() * (5 * transform + 6)
    )


def _fake(q: Tensor, k: Tensor, window: int) -> Tensor:
    return _inputs.new_like(q)


def _fake_backward(grad: Tensor, q: Tensor, k: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return _inputs.new_like(q), _inputs.new_like(k)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *ops.window_fft_conv_backward(grad, *ctx.saved_tensors, ctx.window), None


_library.operator(
    OPERATOR,
    "(Tensor q, Tensor k, int window) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton", "cuda"),
)
_library.declare(
    "window_fft_conv_backward",
    "(Tensor grad, Tensor q, Tensor k, int window) -> (Tensor, Tensor)",
    _fake_backward,
)
