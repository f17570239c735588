"""Gated depthwise feed-forward network (GDFN; Restormer, Zamir et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moce_kernels import gated_depthwise_conv
from moceir.model.layers import ChannelNorm, DepthwiseConv, PointwiseConv

BAND = 2**21
"""Bytes of hidden features that inference on a CPU takes at a time, in bands of rows: they stay in
cache from one operator to the next, and are never there for the whole picture."""


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
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu"
        row = x.shape[0] * x.shape[3] * self.project_in.out_channels * x.element_size()
        rows = x.shape[2] if whole else max(8, BAND // max(1, row))
        if rows >= x.shape[2]:
            return self.project_out(self._gated(x, norm), residual=x)
        out = torch.empty_like(x)
        for top in range(0, x.shape[2], rows):
            bottom = min(top + rows, x.shape[2])
            # A neighbouring row on either side for the convolution, where there is one.
            first, last = max(top - 1, 0), min(bottom + 1, x.shape[2])
            gated = self._gated(x[:, :, first:last], norm)[:, :, top - first : bottom - first]
            out[:, :, top:bottom] = self.project_out(gated, residual=x[:, :, top:bottom])
        return out

    def _gated(self, x: Tensor, norm: ChannelNorm) -> Tensor:
        convolution = self.depthwise
        hidden = self.project_in(x, norm)
        return gated_depthwise_conv(hidden, convolution.weight, convolution.bias)
