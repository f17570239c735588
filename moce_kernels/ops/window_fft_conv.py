"""Circular convolution of windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import window_fft_conv as reference

OPERATOR = "window_fft_conv"


def window_fft_conv(q: Tensor, k: Tensor, window: int, backend: str | None = None) -> Tensor:
    """``q (*) k``: each channel of each window of q convolved circularly with that of k.

    ``fft_attention`` without LayerNorm and product: ``irfft2(rfft2(q) * rfft2(k))`` of each
    ``window`` x ``window`` tile, zero-padded at the right and bottom edge. Differentiable in both.

    Args:
        q, k: (B, C, H, W), any H and W, any strides; float32, bfloat16, float16, or float64 on the
            reference backend. Under autocast they are cast to its dtype.
        window: 4, 8, 16 or 32.
        backend: as in ``fft_attention``.

    Returns:
        (B, C, H, W) in q's dtype; spectra and sums are float32. From the kernels: channels-last in
        memory where q's channels are adjacent, else contiguous.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or window that do not fit.
        backends.BackendUnavailableError: ``backend`` cannot run, and why.
    """
    q, k = _inputs.autocast(q.device, q, k)
    _inputs.check_window(OPERATOR, window)
    _inputs.check_same(OPERATOR, q=q, k=k)
    runs = backends.choose(OPERATOR, backend, q.device, q.dtype)
    if runs == "reference":
        with _inputs.no_autocast(q.device):
            return reference.window_fft_conv(q, k, window).to(q.dtype)
    return _library.kernels(runs).window_fft_conv(q, k, window)


def _fake(q: Tensor, k: Tensor, window: int) -> Tensor:
    return _inputs.new_like(q)


def _fake_backward(grad: Tensor, q: Tensor, k: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return _inputs.new_like(q), _inputs.new_like(k)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *ops.window_fft_conv_backward(grad, *ctx.saved_tensors, ctx.window), None


_library.declare(
    "window_fft_conv",
    "(Tensor q, Tensor k, int window) -> Tensor",
    _fake,
    _setup_context,
    _backward,
)
_library.declare(
    "window_fft_conv_backward",
    "(Tensor grad, Tensor q, Tensor k, int window) -> (Tensor, Tensor)",
    _fake_backward,
)
