"""The layers that every block is made of. Activations are channels-last in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moce_kernels import pointwise_conv, projected_depthwise_conv


def channels_last(x: Tensor) -> Tensor:
    """x, channels-last in memory. On CUDA ``pixel_shuffle`` and its inverse return NCHW memory
    whatever they are given; without this every kernel after them would run on it."""
    return x.contiguous(memory_format=torch.channels_last)


class ChannelNorm(nn.Module):
    """LayerNorm over C of (B, C, H, W), eps 1e-5, with weight and bias.

    Every one stands before 1x1 convolutions, which normalise as they read: see ``PointwiseConv``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))


class PointwiseConv(nn.Conv2d):
    """1x1 convolution, with what comes before and after it in the same pass."""

    def __init__(self, dim_in: int, dim_out: int, bias: bool) -> None:
        super().__init__(dim_in, dim_out, 1, bias=bias)

    def forward(
        self, x: Tensor, norm: ChannelNorm | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """``self(norm(x)) + residual``."""
        scale_shift = None if norm is None else (norm.weight, norm.bias)
        return pointwise_conv(x, self.weight.flatten(1), self.bias, scale_shift, residual)

    def after(self, first: PointwiseConv | None) -> tuple[Tensor, Tensor | None]:
        """Weight (N, C) and bias of ``x -> self(first(x))``: one product of the two matrices."""
        weight, bias = self.weight.flatten(1), self.bias
        if first is not None:
            # Parameters, not activations: in full precision.
            with torch.autocast(weight.device.type, enabled=False):
                if first.bias is not None:
                    shift = weight @ first.bias
                    bias = shift if bias is None else bias + shift
                weight = weight @ first.weight.flatten(1)
        return weight, bias


class DepthwiseConv(nn.Conv2d):
    """K x K convolution of every channel by itself, zero padding; K is 3 or 7."""

    def __init__(self, dim: int, kernel_size: int, bias: bool) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)

    def of_projection(
        self, x: Tensor, projection: PointwiseConv, first: PointwiseConv | None = None
    ) -> Tensor:
        """``self(projection(first(x)))`` in one pass."""
        weight, bias = projection.after(first)
        return projected_depthwise_conv(x, weight, self.weight, bias, self.bias)
