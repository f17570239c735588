"""Gated depthwise feed-forward network (GDFN; Restormer, Zamir et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from moce_kernels import gated_feedforward
from moceir.model.layers import ChannelNorm, DepthwiseConv, PointwiseConv


class GatedFeedForward(nn.Module):
    """LayerNorm, then GDFN: ``W_o(GELU(a) * b)`` with ``a, b = DW3x3(W_i norm(x))``."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.norm = ChannelNorm(dim)
        self.project_in = PointwiseConv(dim, 2 * hidden, bias)
        self.depthwise = DepthwiseConv(2 * hidden, 3, bias)
        self.project_out = PointwiseConv(hidden, dim, bias)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """``GDFN(norm(x)) + residual``, on (B, C, H, W).

        residual: x itself. The fused operator adds what it reads, and nothing else.

        Raises:
            ValueError: another residual.
        """
        if residual is not x:
            raise ValueError("the residual of a GatedFeedForward is its input: give residual=x")
        norm, project_in, depthwise = self.norm, self.project_in, self.depthwise
        return gated_feedforward(
            x,
            project_in.weight.flatten(1),
            depthwise.weight,
            self.project_out.weight.flatten(1),
            project_in.bias,
            depthwise.bias,
            self.project_out.bias,
            norm=norm.affine,
        )
