"""Depthwise convolution, defined in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each channel of x convolved with a K x K kernel of its own, stride 1, zero padding K // 2.

    x: (B, C, H, W); weight: (C, 1, K, K) with K odd; bias: (C,). Returns (B, C, H, W) in x's dtype.
    """
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])
