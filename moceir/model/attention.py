"""Attention over channels: MDTA, the shared expert (eq. 3) and the fusing cross attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moce_kernels import channel_attention, transposed_attention
from moceir.model.layers import ChannelNorm, DepthwiseConv, PointwiseConv, ProjectedDepthwiseConv


class TransposedAttention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA; Restormer, Zamir et al. 2022).

    ``PreNormAttention`` and ``SharedExpert`` say what comes before it.
    """

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = PointwiseConv(dim, 3 * dim, bias)
        self.qkv_depthwise = DepthwiseConv(3 * dim, 3, bias)
        self.project_out = PointwiseConv(dim, dim, bias)

    def attend(
        self,
        x: Tensor,
        norm: ChannelNorm,
        first: PointwiseConv | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """``MDTA(first(norm(x))) + residual`` in one operator, on (B, C, H, W)."""
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
            norm=norm.affine,
            residual=residual,
        )


class PreNormAttention(TransposedAttention):
    """LayerNorm, then MDTA: the attention of a Restormer block."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__(dim, heads, bias)
        self.norm = ChannelNorm(dim)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """``MDTA(norm(x)) + residual``, on (B, C, H, W)."""
        return self.attend(x, self.norm, residual=residual)


class SharedExpert(TransposedAttention):
    """S(x) of eq. 3: a 1x1 convolution, then MDTA. Every image takes it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, bias=False)
        self.project_in: PointwiseConv | None = PointwiseConv(dim, dim, bias=True)

    def forward(self, x: Tensor, norm: ChannelNorm) -> Tensor:
        """``MDTA(project_in(norm(x)))``, on (B, C, H, W).

        norm: the decoder block's, which also stands before the routed experts.
        """
        return self.attend(x, norm, first=self.project_in)


class CrossAttention(nn.Module):
    """Fuses the routed experts (query) with the shared expert (keys and values); Sec. 3.2."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.query = ProjectedDepthwiseConv(dim, dim, kernel_size=3, project_in=True)
        self.key_value = ProjectedDepthwiseConv(dim, 2 * dim, kernel_size=7)
        self.project_out = PointwiseConv(dim, dim, bias=False)

    def forward(self, query: Tensor, key_value: Tensor, residual: Tensor) -> Tensor:
        """``project_out(attention) + residual``: (B, C, H, W).

        Args:
            query: (B, C, H, W), ``self.query`` of the routed experts' output.
            key_value: (B, 2C, H, W), ``self.key_value`` of the shared expert's, keys first. The
                caller makes both, as it can let go of what they are made of in between.
            residual: (B, C, H, W).
        """
        weight = self.project_out.weight.flatten(1)
        return channel_attention(
            query, key_value, self.temperature.flatten(), weight, residual=residual
        )
