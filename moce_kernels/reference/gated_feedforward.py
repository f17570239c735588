"""Gated depthwise feed-forward network, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.reference.gated_depthwise_conv import gated_depthwise_conv
from moce_kernels.reference.pointwise_conv import pointwise_conv


def gated_feedforward(
    x: Tensor,
    project_in: Tensor,
    depthwise: Tensor,
    project_out: Tensor,
    in_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    out_bias: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | bool | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``x + W_o (GELU(a) * b)`` with ``a, b = DW3x3(W_i LayerNorm_C(x))``; shapes as in the
    operator of this name."""
    hidden = pointwise_conv(x, project_in, in_bias, norm, eps=eps)
    gated = gated_depthwise_conv(hidden, depthwise, depthwise_bias)
    return pointwise_conv(gated, project_out, out_bias, residual=x)
