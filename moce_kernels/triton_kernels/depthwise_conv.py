"""Triton kernels of depthwise_conv: out = x * weight + bias, K x K, and its gradients.

A program computes a run of pixels, numbered row by row, of a block of channels: K K loads of
shifted pixels, of which all but the first few find their data in the cache. x is read and the
result written once in memory, 2 elements for each element, and 2 K K float operations; 3 x 3 is
bound by memory, 7 x 7 by the loads from the cache.

The gradient of x is the convolution of out's gradient with flipped weights. Those of weight and
bias are sums over all pixels: each program takes one row of the kernel, a block of channels and
every n-th run of pixels, in float32 and in a fixed order; what they found is added up after.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels._common import (
    Plan,
    blocks,
    expert_shape,
    implement,
    load,
    no_plan,
    pixel_block,
    pixels,
    slot_and_expert,
    slot_at,
    slots_of,
    splits,
    store,
    strided,
)


@triton.jit
def _depthwise_conv(
    x, x_b, x_c, x_h, x_w,
    out, out_b, out_c, out_h, out_w,
    weight, bias,
    rank, height, width,
    index, order,
    RANKS: tl.constexpr,
    WINDOWS: tl.constexpr,
    TIMES: tl.constexpr,  # channels of an expert for each of its rank
    KERNEL: tl.constexpr,
    FLIP: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    channels = TIMES * r
    if tl.program_id(1) * CHANNELS < channels:
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
        row, column = p // width, p % width
        taps = weight + (TIMES * rows + c) * (KERNEL * KERNEL)
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        if bias is not None:
            total += load(bias + TIMES * rows + c, c < channels)[None, :]
        for t in range(KERNEL * KERNEL):
            dy, dx = t // KERNEL - KERNEL // 2, t % KERNEL - KERNEL // 2
            here = (row + dy >= 0) & (row + dy < height) & (column + dx >= 0)
            here = here & (column + dx < width)
            at = pixels(x + slot * x_b, x_c, x_h, x_w, p + dy * width + dx, c, width)
            value = load(at, here[:, None] & (c < channels)[None, :])
            tap = KERNEL * KERNEL - 1 - t if FLIP else t
            total += value * load(taps + tap, c < channels)[None, :]
        inside = (p < height * width)[:, None] & (c < channels)[None, :]
        store(pixels(out + slot * out_b, out_c, out_h, out_w, p, c, width), total, inside)


@triton.jit
def _depthwise_conv_backward_weight(
    grad, grad_b, grad_c, grad_h, grad_w,
    x, x_b, x_c, x_h, x_w,
    sums,
    rank, height, width, slots, total, channel_blocks,
    order, offsets,
    RANKS: tl.constexpr,
    WINDOWS: tl.constexpr,
    TIMES: tl.constexpr,
    KERNEL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """sums (splits, total, K, K + 1): a row of the kernel and, beside it, the gradient's sum."""
    ky = tl.program_id(1)
    e = tl.program_id(2) // channel_blocks
    block = tl.program_id(2) % channel_blocks
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    channels = TIMES * r
    if block * CHANNELS < channels:
        first, count = slots_of(e, offsets, slots, RANKS)
        c = block * CHANNELS + tl.arange(0, CHANNELS)
        column = tl.arange(0, KERNEL + 1)
        found = tl.zeros((CHANNELS, KERNEL + 1), tl.float32)
        parts = tl.cdiv(height * width, PIXELS)
        dy = ky - KERNEL // 2
        for i in range(tl.program_id(0), count * parts, tl.num_programs(0)):
            slot = slot_at(first + i // parts, order, RANKS)
            p = i % parts * PIXELS + tl.arange(0, PIXELS)
            inside = (p < height * width)[:, None] & (c < channels)[None, :]
            g = load(pixels(grad + slot * grad_b, grad_c, grad_h, grad_w, p, c, width), inside)
            here = (p // width + dy >= 0) & (p // width + dy < height)
            part = tl.where(column == KERNEL, tl.sum(g, axis=0)[:, None], 0.0)
            for kx in tl.static_range(KERNEL):
                dx = kx - KERNEL // 2
                there = here & (p % width + dx >= 0) & (p % width + dx < width)
                at = pixels(x + slot * x_b, x_c, x_h, x_w, p + dy * width + dx, c, width)
                value = load(at, inside & there[:, None])
                part += tl.where(column == kx, tl.sum(g * value, axis=0)[:, None], 0.0)
            found += part
        to = (tl.program_id(0).to(tl.int64) * total + TIMES * rows + c) * KERNEL + ky
        to = sums + to[:, None] * (KERNEL + 1) + column[None, :]
        tl.store(to, found, mask=(c < channels)[:, None] & (column >= 0)[None, :])


# --- launches ------------------------------------------------------------------------------------


def _program(channels: int, size: int) -> tuple[int, int]:
    """Pixels and channels of a program."""
    wide = min(32, max(4, triton.next_power_of_2(channels)))
    return pixel_block(2048 // wide, size), wide


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, rank: int, plan: Plan, out: Tensor,
    kernel: int, times: int = 1, flip: bool = False,
) -> None:  # fmt: skip
    """out = x * weight + bias. x and out: (slots, at least ``times * rank`` channels, H, W)."""
    slots, _, height, width = x.shape
    block, wide = _program(times * rank, height * width)
    _depthwise_conv[blocks(height * width, block), blocks(times * rank, wide), slots](
        *strided(x), *strided(out),
        weight, bias,
        rank, height, width,
        plan.expert, plan.order, plan.ranks, plan.windows,
        TIMES=times, KERNEL=kernel, FLIP=flip, PIXELS=block, CHANNELS=wide, num_warps=4,
    )  # fmt: skip


def depthwise_backward_weight(
    grad: Tensor, x: Tensor, rank: int, plan: Plan, kernel: int, times: int = 1
) -> tuple[Tensor, Tensor]:
    """The gradients of weight (channels, K, K) and bias (channels,)."""
    slots, _, height, width = x.shape
    block, wide = _program(times * rank, height * width)
    total = times * plan.total(rank)
    parts, channel_blocks = (
        splits(slots * blocks(height * width, block)),
        blocks(times * rank, wide),
    )
    sums = torch.empty((parts, total, kernel, kernel + 1), dtype=torch.float32, device=x.device)
    _depthwise_conv_backward_weight[parts, kernel, plan.experts * channel_blocks](
        *strided(grad), *strided(x),
        sums,
        rank, height, width, slots, total, channel_blocks,
        plan.order, plan.offsets, plan.ranks, plan.windows,
        TIMES=times, KERNEL=kernel, PIXELS=block, CHANNELS=wide, num_warps=4,
    )  # fmt: skip
    whole = sums.sum(dim=0)
    return whole[..., :kernel].contiguous(), whole[:, 0, kernel].contiguous()


# --- the operator --------------------------------------------------------------------------------


@implement("depthwise_conv")
def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = new_like(x)
    if out.numel():
        channels, kernel = x.shape[1], weight.shape[-1]
        depthwise(x, weight.contiguous(), bias, channels, no_plan(), out, kernel)
    return out


@implement("depthwise_conv_backward_weight")
def backward(grad: Tensor, x: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    if x.numel() == 0:
        new = x.new_zeros((channels, 1, kernel, kernel), dtype=torch.float32)
        return new, x.new_zeros((channels,), dtype=torch.float32)
    dweight, dbias = depthwise_backward_weight(grad, x, channels, no_plan(), kernel)
    return dweight.unsqueeze(1), dbias
