"""Triton kernels of gated_depthwise_conv: a, b = x * weight + bias (3 x 3), out = GELU(a) b.

A program slides a tile of columns x out's channels down a strip of rows, as in depthwise_conv:
the convolutions of both halves that meet there, and their product. x is read and out written once
in memory, 3 elements for each element of out; 36 float operations and a normal distribution: bound
by memory.

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
    aligned,
    aligned_strides,
    alignment,
    blocks,
    implement,
    load,
    no_plan,
    store,
    strided,
    tile_offsets,
)
from moce_kernels.triton_kernels.depthwise_conv import (
    SIZES,
    add_row,
    append,
    channel_block,
    column_block,
    depthwise,
    depthwise_backward_weight,
    load_row,
    load_taps,
    row_exists,
    shifted_masks,
    strip_rows,
)


@triton.jit
def normal_cdf(x):
    """Of the normal distribution, within 5e-8: 2 to the power of a polynomial, which is a third of
    the work of an error function that is exact for small numbers, too. It falls ever faster."""
    t = tl.abs(x)
    p = -2.772089124646e-06 * t + 3.862123134227e-05
    p = p * t - 1.825499418374e-04
    p = p * t - 1.458643284833e-04
    p = p * t + 7.075463849351e-03
    p = p * t - 5.250502278039e-02
    p = p * t - 4.592049095113e-01
    p = p * t - 1.151105723155e00
    p = p * t - 9.999999782995e-01
    tail = tl.exp2(p)
    return tl.where(x < 0, tail, 1.0 - tail)


@triton.jit(do_not_specialize=SIZES)
def _gated_depthwise_conv(
    x,  # (B, 2 C, H, W)
    grad,  # (B, C, H, W)
    out,  # (B, C, H, W); backward, (B, 2 C, H, W)
    weight,  # (2 C, 3, 3)
    bias,  # (2 C,) or None
    channels,
    height,
    width,
    strip,  # rows
    channel_blocks,
    BACKWARD: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = GELU(a) b; backward, the gradients of a and b beside each other."""
    # Programs of the same pixels follow each other.
    block, part = tl.program_id(0) % channel_blocks, tl.program_id(0) // channel_blocks
    image = tl.program_id(1).to(tl.int64)
    channels = aligned(channels, ALIGNED)
    x = aligned_strides(x, ALIGNED)
    grad, out = aligned_strides(grad, ALIGNED), aligned_strides(out, ALIGNED)
    c = block * CHANNELS + tl.arange(0, CHANNELS)
    exists = c < channels
    a_taps = load_taps(weight, c, exists, 3, False)
    b_taps = load_taps(weight, channels + c, exists, 3, False)
    a_empty = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    b_empty = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if bias is not None:
        a_empty += load(bias + c, exists)[None, :]
        b_empty += load(bias + channels + c, exists)[None, :]
    a, b = (a_empty,) * 3, (b_empty,) * 3

    across = tl.cdiv(width, COLUMNS)
    column = part % across * COLUMNS + tl.arange(0, COLUMNS)
    inside = shifted_masks(column, width, exists, 3)
    a_at, b_at = tile_offsets(x, column, c), tile_offsets(x, column, channels + c)
    grad_at = tile_offsets(grad, column, c)
    out_at, db_at = tile_offsets(out, column, c), tile_offsets(out, column, channels + c)
    first = part // across * strip
    last = tl.minimum(first + strip, height)
    start, stop = tl.maximum(first - 1, 0), tl.minimum(last + 1, height)
    x_row = x.data + (image * x.b + start.to(tl.int64) * x.h)
    grad_row = grad.data + (image * grad.b + (start - 1).to(tl.int64) * grad.h)
    out_row = out.data + (image * out.b + (start - 1).to(tl.int64) * out.h)
    there = row_exists(start, 0, stop)
    a_row = load_row(x_row, x.w, a_at, inside, there, 3)
    b_row = load_row(x_row, x.w, b_at, inside, there, 3)
    for y in range(start, last + 1):
        mask = inside[1] & row_exists(y - 1, first, last)
        if BACKWARD:
            d = load(grad_row + grad_at, mask)
        a, b = add_row(a, a_row, a_taps, 3), add_row(b, b_row, b_taps, 3)
        x_row += x.h
        there = row_exists(y + 1, 0, stop)
        a_row = load_row(x_row, x.w, a_at, inside, there, 3)
        b_row = load_row(x_row, x.w, b_at, inside, there, 3)
        phi = normal_cdf(a[0])
        if BACKWARD:
            slope = phi + 0.39894228040143268 * a[0] * tl.exp(-0.5 * a[0] * a[0])
            store(out_row + out_at, d * b[0] * slope, mask)
            store(out_row + db_at, d * (a[0] * phi), mask)
        else:
            store(out_row + out_at, a[0] * phi * b[0], mask)
        grad_row += grad.h
        out_row += out.h
        a, b = append(a[1:], a_empty), append(b[1:], b_empty)


# --- the operator --------------------------------------------------------------------------------


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, out: Tensor
) -> None:
    batch, both, height, width = x.shape
    channels, given = both // 2, out if grad is None else grad
    wide = channel_block(channels, 16)
    columns = column_block(256, wide)
    across, deep = blocks(width, columns), blocks(channels, wide)
    strip = strip_rows(height, across * deep * batch)
    _gated_depthwise_conv[deep * across * blocks(height, strip), batch](
        x=strided(x),
        grad=strided(given),
        out=strided(out),
        weight=weight,
        bias=bias,
        channels=channels,
        height=height,
        width=width,
        strip=strip,
        channel_blocks=deep,
        BACKWARD=grad is not None,
        ALIGNED=alignment([channels], x, given, out),
        COLUMNS=columns,
        CHANNELS=wide,
        num_warps=4,
    )


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
    depthwise(d, weight, None, dx, rank=channels, plan=plan, kernel=3, flip=True)
    dweight, dbias = depthwise_backward_weight(d, x, rank=channels, plan=plan, kernel=3)
    return dx, dweight.unsqueeze(1), dbias
