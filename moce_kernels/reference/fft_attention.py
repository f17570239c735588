"""Window FFT attention, defined in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from moce_kernels.reference.window_fft_conv import window_fft_conv


def fft_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: int,
    eps: float = 1e-5,
    convolve: Callable[[Tensor, Tensor, int], Tensor] = window_fft_conv,
) -> Tensor:
    """``LayerNorm_C(q (*) k) * v`` with ``(*)`` the circular convolution of each window.

    q, k, v: (B, C, H, W); weight, bias: (C,). Returns (B, C, H, W) in q's dtype.
    """
    mixed = convolve(q, k, window).permute(0, 2, 3, 1)
    normed = F.layer_norm(mixed, (q.shape[1],), weight.to(mixed.dtype), bias.to(mixed.dtype), eps)
    return (normed.permute(0, 3, 1, 2) * v.to(mixed.dtype)).to(q.dtype)
