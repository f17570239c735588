"""Attention over channels: the shared expert (eq. 3) and the fusing cross attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moceir.model.layers import DepthwiseConv, PointwiseConv


def channel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """``softmax(q^ k^T * temperature) v`` over the channels of each head.

    q^ and k^ are the rows (one channel, all pixels) scaled to unit L2 norm: the matrix of a head is
    c x c whatever the image size. q, k, v: (B, C, H, W); temperature: (heads, 1, 1).
    """
    B, C, H, W = q.shape
    heads = temperature.shape[0]

    def rows(t: Tensor) -> Tensor:  # (B, heads, c, HW)
        return t.reshape(B, heads, C // heads, H * W)

    q, k, v = rows(q), rows(k), rows(v)
    # Scaling the small matrix is scaling its rows and columns, without a pass over the pixels.
    q_norm = torch.linalg.vector_norm(q, dim=-1, dtype=torch.float32).clamp_min(1e-12)
    k_norm = torch.linalg.vector_norm(k, dim=-1, dtype=torch.float32).clamp_min(1e-12)
    scores = (q @ k.transpose(-2, -1)) / (q_norm[..., :, None] * k_norm[..., None, :])
    attention = (scores * temperature).softmax(dim=-1)
    return (attention.to(v.dtype) @ v).reshape(B, C, H, W)


class TransposedAttention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA; Restormer): S(x) of eq. 3."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = PointwiseConv(dim, 3 * dim, bias)
        self.qkv_depthwise = DepthwiseConv(3 * dim, 3, bias)
        self.project_out = PointwiseConv(dim, dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv_depthwise(self.qkv(x)).chunk(3, dim=1)
        return self.project_out(channel_attention(q, k, v, self.temperature))


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

    def forward(self, routed: Tensor, shared: Tensor) -> Tensor:
        q = self.query_depthwise(self.query(routed))
        k, v = self.key_value_depthwise(self.key_value(shared)).chunk(2, dim=1)
        return self.project_out(channel_attention(q, k, v, self.temperature))
