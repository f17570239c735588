"""The layers that every block is made of. Activations are channels-last in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moce_kernels import backends, pointwise_conv, projected_depthwise_conv


def padded(image: Tensor, cell: int) -> Tensor:
    """(B, C, H, W), reflected at the right and the bottom to multiples of ``cell``."""
    for axis, size in ((3, image.shape[3]), (2, image.shape[2])):
        missing = -size % cell
        if missing:
            pad = (0, missing, 0, 0) if axis == 3 else (0, 0, 0, missing)
            # An image narrower than its padding has nothing more to reflect.
            image = F.pad(image, pad, mode="reflect" if missing < size else "replicate")
    return image


def channels_last(x: Tensor) -> Tensor:
    """x, channels-last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """(B, C, 2H, 2W) to (B, 4C, H, W), channels-last in memory, and so is its gradient."""
    if not _on_gpu(x):
        return channels_last(F.pixel_unshuffle(x, 2))
    cells = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B, H, 2, W, 2, C
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)


def pixel_shuffle(x: Tensor) -> Tensor:
    """(B, 4C, H, W) to (B, C, 2H, 2W), channels-last in memory, and so is its gradient."""
    if not _on_gpu(x):
        return channels_last(F.pixel_shuffle(x, 2))
    cells = x.permute(0, 2, 3, 1).unflatten(3, (-1, 2, 2))  # B, H, W, C, 2, 2
    return cells.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _on_gpu(x: Tensor) -> bool:
    """Whether x is for a GPU's kernels. PyTorch's ``pixel_shuffle`` and its inverse return NCHW
    memory there, whatever they are given, and a second copy would have to mend that. On a CPU they
    keep the layout, and are the fastest."""
    return backends.choose("pointwise_conv", None, x.device, x.dtype) in ("triton", "cuda")


def pooled(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B, C), the mean over the pixels of (B, C, H, W), summed in ``dtype``. As of channels-last
    memory: the gradient of ``mean(dim=(2, 3))`` would be NCHW."""
    # A function with a forward-mode derivative cannot be traced by torch.compile.
    if dtype is torch.float32 and _on_gpu(x) and not torch.compiler.is_compiling():
        return _Means.apply(x)
    return x.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1, dtype=dtype)


class _Means(torch.autograd.Function):
    """``mean(dim=(2, 3))`` in float32 for GPUs, with a gradient of (B, C) numbers that are the same
    at all pixels. PyTorch's is a float32 tensor as large as x, and then its conversion."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), dtype=torch.float32)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        each = (grad / (ctx.shape[2] * ctx.shape[3])).to(ctx.dtype)
        return each[:, :, None, None].expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.mean(dim=(2, 3), dtype=torch.float32)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C of (B, C, H, W), eps 1e-5, with weight and bias.

    In the network every norm stands before a 1x1 convolution. The fused operators take its
    parameters and normalise as they read, so ``norm(x)`` itself is never in memory there.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, channels-last in memory."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    @property
    def affine(self) -> tuple[Tensor, Tensor] | bool:
        """As the operators take it: weight and bias, or True where the next convolution has them
        (``moceir.model.folded``)."""
        return True if self.weight is None else (self.weight, self.bias)


def normalised(x: Tensor) -> Tensor:
    """(B, C, H, W) with mean 0 and variance 1 over C: a LayerNorm without parameters, eps 1e-5."""
    pixels = F.layer_norm(x.permute(0, 2, 3, 1).flatten(1, 2), x.shape[1:2])
    return pixels.to(x.dtype).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class PointwiseConv(nn.Conv2d):
    """1x1 convolution, with the norm before it and the residual after it in the same pass."""

    def __init__(self, dim_in: int, dim_out: int, bias: bool) -> None:
        super().__init__(dim_in, dim_out, 1, bias=bias)

    def forward(
        self, x: Tensor, norm: ChannelNorm | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """``W norm(x) + b + residual``: (B, dim_in, H, W) to (B, dim_out, H, W)."""
        affine = None if norm is None else norm.affine
        return pointwise_conv(x, self.weight.flatten(1), self.bias, affine, residual)

    def after(self, first: PointwiseConv | None) -> tuple[Tensor, Tensor | None]:
        """Weight (N, C) and bias of ``x -> self(first(x))``, as one 1x1 convolution."""
        weight, bias = self.weight.flatten(1), self.bias
        if first is not None:
            # Parameters, not activations: in full precision.
            with torch.autocast(weight.device.type, enabled=False):
                if first.bias is not None:
                    shift = weight @ first.bias
                    bias = shift if bias is None else bias + shift
                weight = weight @ first.weight.flatten(1)
        return weight, bias


class Conv3x3(nn.Conv2d):
    """3 x 3 convolution with zero padding and no bias.

    Under autocast on a CPU without instructions for the 16-bit type it runs in float32, and its
    result is rounded: PyTorch's convolutions of that type are several times slower there.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        if backends.pytorch_multiplies(dtype):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(dtype)


class DepthwiseConv(nn.Conv2d):
    """K x K convolution of every channel by itself, zero padding; K is 3 or 7."""

    def __init__(self, dim: int, kernel_size: int, bias: bool) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)


class ProjectedDepthwiseConv(nn.Module):
    """1x1 convolution, then a K x K depthwise one, without biases, in one pass.

    With ``project_in`` there is another 1x1 convolution first. It is joined with the projection
    into one matrix.
    """

    def __init__(
        self, dim_in: int, dim_out: int, kernel_size: int, project_in: bool = False
    ) -> None:
        super().__init__()
        self.project_in = PointwiseConv(dim_in, dim_in, bias=False) if project_in else None
        self.projection = PointwiseConv(dim_in, dim_out, bias=False)
        self.depthwise = DepthwiseConv(dim_out, kernel_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim_in, H, W) to (B, dim_out, H, W)."""
        weight, _ = self.projection.after(self.project_in)
        return projected_depthwise_conv(x, weight, self.depthwise.weight)
