"""Attention over channels with its output projection, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def channel_attention(
    query: Tensor,
    key_value: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``W softmax(q^ k^T * temperature) v + b + residual``, the softmax for each head.

    q^ and k^ are the rows (one channel, all pixels) scaled to unit L2 norm: the matrix of a head is
    c x c whatever the image size. query: (B, C, H, W) and key_value: (B, 2C, H, W), or query alone
    (B, 3C, H, W); temperature: (heads,); weight: (N, C); bias: (N,); residual: (B, N, H, W).
    Returns (B, N, H, W) in query's dtype.
    """
    q, k, v = query.chunk(3, 1) if key_value is None else (query, *key_value.chunk(2, 1))
    B, C, H, W = q.shape
    heads = temperature.shape[0]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32

    def rows(t: Tensor) -> Tensor:  # (B, heads, c, HW)
        return t.reshape(B, heads, C // heads, H * W)

    q, k, v = rows(q), rows(k), rows(v)
    # Scaling the small matrix is scaling its rows and columns, without a pass over the pixels.
    q_norm = torch.linalg.vector_norm(q, dim=-1, dtype=wide).clamp_min(1e-12)
    k_norm = torch.linalg.vector_norm(k, dim=-1, dtype=wide).clamp_min(1e-12)
    scores = (q @ k.transpose(-2, -1)) / (q_norm[..., :, None] * k_norm[..., None, :])
    attention = (scores * temperature.to(wide).view(heads, 1, 1)).softmax(dim=-1)
    mixed = (attention.to(v.dtype) @ v).reshape(B, C, H, W).permute(0, 2, 3, 1)
    bias = None if bias is None else bias.to(mixed.dtype)
    out = F.linear(mixed, weight.to(mixed.dtype), bias).permute(0, 3, 1, 2)
    return out if residual is None else out + residual
