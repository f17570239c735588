"""The layers that every block is made of. Activations are channels-last in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moce_kernels import depthwise_conv


class ChannelNorm(nn.Module):
    """LayerNorm over C of (B, C, H, W), eps 1e-5, with weight and bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        # Channels-last in memory, so both permutations are free.
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias)
        return normed.permute(0, 3, 1, 2)


class PointwiseConv(nn.Conv2d):
    """1x1 convolution: a matrix product over the pixels, which is faster said so on CPUs."""

    def __init__(self, dim_in: int, dim_out: int, bias: bool) -> None:
        super().__init__(dim_in, dim_out, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
            0, 3, 1, 2
        )


class DepthwiseConv(nn.Conv2d):
    """K x K convolution of every channel by itself, zero padding; K is 3 or 7."""

    def __init__(self, dim: int, kernel_size: int, bias: bool) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv(x, self.weight, self.bias)
