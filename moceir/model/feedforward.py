"""Gated depthwise feed-forward network (GDFN; Restormer, Zamir et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from moce_kernels import gated_depthwise_conv
from moceir.model.layers import ChannelNorm, DepthwiseConv, PointwiseConv


class GatedFeedForward(nn.Module):
    """``W_o(GELU(a) * b)`` with ``a, b = DW3x3(W_i x)``, on (B, C, H, W)."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = PointwiseConv(dim, 2 * hidden, bias)
        self.depthwise = DepthwiseConv(2 * hidden, 3, bias)
        self.project_out = PointwiseConv(hidden, dim, bias)

    def forward(self, x: Tensor, norm: ChannelNorm) -> Tensor:
        """``x + GDFN(norm(x))``."""
        convolution = self.depthwise
        gated = gated_depthwise_conv(
            self.project_in(x, norm), convolution.weight, convolution.bias
        )
        return self.project_out(gated, residual=x)
