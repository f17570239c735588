"""Circular convolution of windows, defined in plain PyTorch: by transforms, and by products."""

from __future__ import annotations

import math

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


def window_product_conv(q: Tensor, k: Tensor, window: int) -> Tensor:
    """``window_fft_conv`` by products with the matrices of the Fourier transform, for whoever has
    no operator for the transform itself; float32 in and out."""
    B, C, H, W = q.shape
    P = window
    bottom, right = -H % P, -W % P
    angle = 2 * math.pi / P * torch.outer(torch.arange(P), torch.arange(P)).double()
    cos, sin = angle.cos().float(), angle.sin().float()

    def spectrum(t: Tensor) -> tuple[Tensor, Tensor]:
        t = F.pad(t, (0, right, 0, bottom))
        t = t.reshape(B, C, (H + bottom) // P, P, (W + right) // P, P).transpose(3, 4)
        return cos @ t @ cos - sin @ t @ sin, -(cos @ t @ sin + sin @ t @ cos)

    (q_re, q_im), (k_re, k_im) = spectrum(q), spectrum(k)
    re, im = q_re * k_re - q_im * k_im, q_re * k_im + q_im * k_re
    out = (cos @ re - sin @ im) @ cos - (cos @ im + sin @ re) @ sin
    out = (out / P**2).transpose(3, 4).reshape(B, C, H + bottom, W + right)
    return out[:, :, :H, :W]
