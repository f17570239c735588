"""Depthwise convolution of a 1x1 convolution, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.reference.depthwise_conv import depthwise_conv
from moce_kernels.reference.pointwise_conv import pointwise_conv


def projected_depthwise_conv(
    x: Tensor,
    weight: Tensor,
    depthwise: Tensor,
    bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | bool | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``DW(W LayerNorm_C(x) + b)``; shapes as in the operator of this name."""
    projected = pointwise_conv(x, weight, bias, norm, eps=eps)
    return depthwise_conv(projected, depthwise, depthwise_bias)
