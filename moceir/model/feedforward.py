"""Gated depthwise feed-forward network (GDFN; Restormer, Zamir et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from moce_kernels import gated_feedforward
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
        project_in, depthwise, project_out = self.project_in, self.depthwise, self.project_out
        return gated_feedforward(
            x,
            project_in.weight.flatten(1),
            depthwise.weight,
            project_out.weight.flatten(1),
            project_in.bias,
            depthwise.bias,
            project_out.bias,
            norm=(norm.weight, norm.bias),
        )
