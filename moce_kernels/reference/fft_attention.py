"""Window FFT attention, defined in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def window_fft_conv(q: Tensor, k: Tensor, window: int) -> Tensor:
    """Circular convolution of q and k, per channel and per ``window`` x ``window`` tile.

    q, k: (B, C, H, W). The right and bottom edges are zero-padded to whole windows and cropped
    after. Spectra are float32 (float64 for float64 inputs); so is the result.
    """
    B, C, H, W = q.shape
    P = window
    pad = (0, -W % P, 0, -H % P)
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32

    if q.numel() == 0:  # the FFT library refuses to transform nothing
        return q.to(compute) * k.to(compute)

    def windows(t: Tensor) -> Tensor:  # (B, C, rows, P, columns, P)
        t = F.pad(t.to(compute), pad)
        return t.reshape(B, C, t.shape[2] // P, P, t.shape[3] // P, P)

    spectrum = torch.fft.rfft2(windows(q), dim=(3, 5)) * torch.fft.rfft2(windows(k), dim=(3, 5))
    out = torch.fft.irfft2(spectrum, s=(P, P), dim=(3, 5))
    return out.reshape(B, C, H + pad[3], W + pad[1])[:, :, :H, :W]


def fft_attention(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, window: int, eps: float = 1e-5
) -> Tensor:
    """``LayerNorm_C(q (*) k) * v`` with ``(*)`` the circular convolution of each window.

    q, k, v: (B, C, H, W); weight, bias: (C,). Returns (B, C, H, W) in q's dtype.
    """
    mixed = window_fft_conv(q, k, window).permute(0, 2, 3, 1)
    normed = F.layer_norm(mixed, (q.shape[1],), weight.to(mixed.dtype), bias.to(mixed.dtype), eps)
    return (normed.permute(0, 3, 1, 2) * v.to(mixed.dtype)).to(q.dtype)
