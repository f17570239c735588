"""Gated depthwise feed-forward network (GDFN; Restormer, Zamir et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from moceir.model.layers import DepthwiseConv, PointwiseConv


class GatedFeedForward(nn.Module):
    """``W_o(GELU(a) * b)`` with ``a, b = DW3x3(W_i x)``; (B, C, H, W) to the same."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = PointwiseConv(dim, 2 * hidden, bias)
        self.depthwise = DepthwiseConv(2 * hidden, 3, bias)
        self.project_out = PointwiseConv(hidden, dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(a) * b)
