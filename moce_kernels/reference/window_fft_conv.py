"""Circular convolution of windows, defined in plain PyTorch."""

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
