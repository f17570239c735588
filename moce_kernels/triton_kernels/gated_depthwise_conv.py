"""Triton kernels of gated_depthwise_conv: a, b = x * weight + bias (3 x 3), out = GELU(a) b.

A program computes a run of pixels, numbered row by row, of a block of out's channels: the
convolutions of both halves that meet there, and their product. x is read and out written once in
memory, 3 elements for each element of out; 36 float operations and an error function: bound by
memory, and by the cache, from which each element of x is loaded nine times.

Backward convolves again and leaves the gradients of a and b, in x's dtype; that of x is their
convolution with flipped weights, those of weight and bias are sums over all pixels, both with
depthwise_conv's kernels. 13 elements are moved for each element of out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels._common import (
    blocks,
    implement,
    load,
    no_plan,
    pixel_block,
    pixels,
    store,
    strided,
)
from moce_kernels.triton_kernels.depthwise_conv import depthwise, depthwise_backward_weight


@triton.jit
def _gated_depthwise_conv(
    x, x_b, x_c, x_h, x_w,
    grad, grad_b, grad_c, grad_h, grad_w,
    out, out_b, out_c, out_h, out_w,
    weight, bias,
    channels, height, width,
    BACKWARD: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = GELU(a) b; backward, the gradients of a and b beside each other."""
    image = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column = p // width, p % width
    exists = c < channels
    mask = (p < height * width)[:, None] & exists[None, :]
    a = tl.zeros((PIXELS, CHANNELS), tl.float32)
    b = tl.zeros((PIXELS, CHANNELS), tl.float32)
    if bias is not None:
        a += load(bias + c, exists)[None, :]
        b += load(bias + channels + c, exists)[None, :]
    x += image * x_b
    for t in range(9):
        dy, dx = t // 3 - 1, t % 3 - 1
        here = (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)
        here = here[:, None] & exists[None, :]
        at = pixels(x, x_c, x_h, x_w, p + dy * width + dx, c, width)
        a += load(at, here) * load(weight + c * 9 + t, exists)[None, :]
        at = pixels(x, x_c, x_h, x_w, p + dy * width + dx, channels + c, width)
        b += load(at, here) * load(weight + (channels + c) * 9 + t, exists)[None, :]
    phi = 0.5 + 0.5 * tl.erf(0.70710678118654752 * a)  # of the normal distribution
    to = pixels(out + image * out_b, out_c, out_h, out_w, p, c, width)
    if BACKWARD:
        at = pixels(grad + image * grad_b, grad_c, grad_h, grad_w, p, c, width)
        d = load(at, mask)
        slope = phi + 0.39894228040143268 * a * tl.exp(-0.5 * a * a)
        store(to, d * b * slope, mask)
        to = pixels(out + image * out_b, out_c, out_h, out_w, p, channels + c, width)
        store(to, d * (a * phi), mask)
    else:
        store(to, a * phi * b, mask)


# --- the operator --------------------------------------------------------------------------------


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, out: Tensor
) -> None:
    batch, both, height, width = x.shape
    channels, size = both // 2, height * width
    wide = min(32, max(4, triton.next_power_of_2(channels)))
    block = pixel_block(1024 // wide, size)
    _gated_depthwise_conv[blocks(size, block), blocks(channels, wide), batch](
        *strided(x), *strided(out if grad is None else grad), *strided(out),
        weight, bias,
        channels, height, width,
        BACKWARD=grad is not None, PIXELS=block, CHANNELS=wide, num_warps=4,
    )  # fmt: skip


@implement("gated_depthwise_conv")
def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = new_like(x, x.shape[1] // 2)
    if out.numel():
        _launch(x, weight, bias, None, out)
    return out


@implement("gated_depthwise_conv_backward")
def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dx, channels = new_like(x), x.shape[1]
    if x.numel() == 0:
        return dx, torch.zeros_like(weight), weight.new_zeros((channels,))
    d, plan = torch.empty_like(dx), no_plan()
    _launch(x, weight, bias, grad, d)
    depthwise(d, weight, None, channels, plan, dx, 3, flip=True)
    dweight, dbias = depthwise_backward_weight(d, x, channels, plan, 3)
    return dx, dweight.unsqueeze(1), dbias
