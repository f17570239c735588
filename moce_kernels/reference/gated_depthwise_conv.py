"""Depthwise 3x3 convolution with a GELU gate, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from moce_kernels.reference.depthwise_conv import depthwise_conv


def gated_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``GELU(a) * b`` with a and b the halves of x's channels after the convolution.

    x: (B, 2C, H, W); weight: (2C, 1, 3, 3); bias: (2C,). Returns (B, C, H, W) in x's dtype.
    """
    a, b = depthwise_conv(x, weight, bias).chunk(2, dim=1)
    return F.gelu(a) * b
