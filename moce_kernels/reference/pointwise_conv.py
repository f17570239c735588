"""1x1 convolution with a normalisation before it and a residual after it, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | bool | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``W LayerNorm_C(x) + b + residual``.

    x: (B, C, H, W); weight: (N, C); bias: (N,); norm: weight and bias (C,) of the LayerNorm over
    channels, or True for one without them; residual: (B, N, H, W). Returns (B, N, H, W) in x's
    dtype.
    """
    pixels = x.permute(0, 2, 3, 1)
    if norm:
        scale, shift = (t.to(x.dtype) for t in norm) if isinstance(norm, tuple) else (None, None)
        pixels = F.layer_norm(pixels, pixels.shape[3:], scale, shift, eps)
    bias = None if bias is None else bias.to(x.dtype)
    out = F.linear(pixels, weight.to(x.dtype), bias).permute(0, 3, 1, 2)
    return out if residual is None else out + residual
