"""Attention over channels: the shared expert (eq. 3) and the fusing cross attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moce_kernels import channel_attention, transposed_attention
from moceir.model.layers import ChannelNorm, DepthwiseConv, PointwiseConv


class TransposedAttention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA; Restormer): S(x) of eq. 3."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = PointwiseConv(dim, 3 * dim, bias)
        self.qkv_depthwise = DepthwiseConv(3 * dim, 3, bias)
        self.project_out = PointwiseConv(dim, dim, bias)

    def forward(
        self,
        x: Tensor,
        norm: ChannelNorm,
        first: PointwiseConv | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """``MDTA(first(norm(x))) + residual``, on (B, C, H, W)."""
        qkv, qkv_bias = self.qkv.after(first)
        depthwise, out = self.qkv_depthwise, self.project_out
        return transposed_attention(
            x,
            qkv,
            depthwise.weight,
            self.temperature.flatten(),
            out.weight.flatten(1),
            qkv_bias,
            depthwise.bias,
            out.bias,
            norm=(norm.weight, norm.bias),
            residual=residual,
        )


class CrossAttention(nn.Module):
    """Fuses the routed experts (query) with the shared expert (keys and values)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.query = PointwiseConv(dim, dim, bias=False)
        self.query_depthwise = DepthwiseConv(dim, 3, bias=False)
        self.key_value = PointwiseConv(dim, 2 * dim, bias=False)
        self.key_value_depthwise = DepthwiseConv(2 * dim, 7, bias=False)
        self.project_out = PointwiseConv(dim, dim, bias=False)

    def project_query(self, routed: Tensor, first: PointwiseConv) -> Tensor:
        """(B, C, H, W), from ``first(routed)``."""
        return self.query_depthwise.of_projection(routed, self.query, first)

    def project_key_value(self, shared: Tensor) -> Tensor:
        """(B, 2C, H, W), keys before values."""
        return self.key_value_depthwise.of_projection(shared, self.key_value)

    def forward(self, query: Tensor, key_value: Tensor, residual: Tensor) -> Tensor:
        weight = self.project_out.weight.flatten(1)
        return channel_attention(
            query, key_value, self.temperature.flatten(), weight, residual=residual
        )
