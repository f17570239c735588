"""Window FFT attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import fft_attention as reference

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

    Args:
        q, k, v: (B, C, H, W), any H and W, any strides; float32, bfloat16, float16, or float64 on
            the reference backend. Under autocast they are cast to its dtype.
        weight, bias: (C,), LayerNorm's, of any floating dtype.
        window: 4, 8, 16 or 32.
        eps: added to the variance.
        backend: "reference", "cpu", "triton" or "cuda": that one or an error. By default what
            ``use_backends`` or the environment's MOCE_KERNELS_BACKEND says, or else the fastest
            that can run.

    Returns:
        (B, C, H, W) in q's dtype; sums, statistics and spectra are float32. From the kernels:
        channels-last in memory where q's channels are adjacent, else contiguous.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or window that do not fit.
        backends.BackendUnavailableError: ``backend`` cannot run, and why.
    """
    q, k, v = _inputs.autocast(q.device, q, k, v)
    _inputs.check_window(OPERATOR, window)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, q=q, k=k, v=v)
    channels = (q.shape[1],)
    _inputs.check_parameters(
        OPERATOR, q.device, {"weight": channels, "bias": channels}, weight=weight, bias=bias
    )
    runs = backends.choose(OPERATOR, backend, q.device, q.dtype)
    if runs == "reference":
        with _inputs.no_autocast(q.device):
            return reference.fft_attention(q, k, v, weight, bias, window, eps)
    return _library.kernels(runs).fft_attention(
        q, k, v, weight.float().contiguous(), bias.float().contiguous(), window, eps
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


_library.declare(
    "fft_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor weight, Tensor bias, int window, float eps) -> Tensor",
    _fake,
    _setup_context,
    _backward,
)
_library.declare(
    "fft_attention_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor weight, Tensor bias, int window, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
)
