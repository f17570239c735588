"""Multi-Dconv head transposed attention, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.reference.channel_attention import channel_attention
from moce_kernels.reference.projected_depthwise_conv import projected_depthwise_conv


def transposed_attention(
    x: Tensor,
    qkv: Tensor,
    depthwise: Tensor,
    temperature: Tensor,
    weight: Tensor,
    qkv_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    bias: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | bool | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``W softmax(q^ k^T * temperature) v + b + residual`` with ``q, k, v = DW3x3(W_qkv
    LayerNorm_C(x))``; shapes as in the operator of this name."""
    query = projected_depthwise_conv(x, qkv, depthwise, qkv_bias, depthwise_bias, norm, eps)
    return channel_attention(query, None, temperature, weight, bias, residual)
