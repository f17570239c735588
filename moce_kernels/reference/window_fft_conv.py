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
    no operator for the transform itself; float32 in and out. Nothing depends on what H and W are,
    so that one recorded graph serves all sizes."""
    B, C, H, W = q.shape
    P = window
    rows, columns = (H + P - 1) // P, (W + P - 1) // P
    angle = 2 * math.pi / P * torch.outer(torch.arange(P), torch.arange(P)).double()
    cos, sin = angle.cos().float(), angle.sin().float()

    def spectrum(t: Tensor) -> tuple[Tensor, Tensor]:  # (N, P, P) each
        t = F.pad(t, (0, P - 1, 0, P - 1)).narrow(2, 0, rows * P).narrow(3, 0, columns * P)
        t = t.reshape(B, C, rows, P, columns, P).transpose(3, 4)
        t = t.reshape(B * C * rows * columns, P, P)
        forward = torch.cat([cos, sin], 1)
        t = (t @ forward).mT @ forward  # cos cos, cos sin; sin cos, sin sin
        return t[:, :P, :P] - t[:, P:, P:], -(t[:, :P, P:] + t[:, P:, :P])

    (q_re, q_im), (k_re, k_im) = spectrum(q), spectrum(k)
    t = torch.cat([q_re * k_re - q_im * k_im, q_re * k_im + q_im * k_re], 2)
    t = t @ torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
    t = torch.cat(t.chunk(2, 2), 1).mT @ torch.cat([cos, -sin]) / P**2
    t = t.reshape(B, C, rows, columns, P, P).transpose(3, 4)
    return t.reshape(B, C, rows * P, columns * P).narrow(2, 0, H).narrow(3, 0, W)
