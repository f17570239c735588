"""Triton kernels of depthwise_conv: out = x * weight + bias, K x K, and its gradients.

A program takes a tile of columns x channels and slides it down a strip of rows. Each row of x is
loaded at K shifts, of which all but the first find their data in the cache, and added to the K rows
of out that it is part of: their sums wait in registers, beside the taps, and the row that is done
makes room for a new one. Rows are loaded ahead of their use. x is read and the result written once
in memory, 2 elements for each element, and 2 K K float operations; 3 x 3 is bound by memory, 7 x 7
by arithmetic.

The gradient of x is the convolution of out's gradient with flipped weights. Those of weight and
bias are sums over all pixels: each program takes a block of channels and every n-th strip, in
float32 and in a fixed order; what they found is added up after.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels import interpreted
from moce_kernels.triton_kernels._common import (
    Plan,
    aligned,
    aligned_strides,
    alignment,
    blocks,
    expert_shape,
    implement,
    load,
    no_plan,
    slot_and_expert,
    slot_at,
    slots_of,
    splits,
    store,
    strided,
    tile_offsets,
)
from moce_kernels.triton_kernels._sums import add_up

# What is compiled does not depend on these.
SIZES = ["rank", "channels", "height", "width", "strip", "channel_blocks", "slots", "total"]


@triton.jit
def append(values, value):
    values += (value,)
    return values


@triton.jit
def load_taps(weight, c, mask, KERNEL: tl.constexpr, FLIP: tl.constexpr):
    """A tuple of (1, C) for each tap."""
    taps = ()
    for t in tl.static_range(KERNEL * KERNEL):
        at = KERNEL * KERNEL - 1 - t if FLIP else t
        taps = append(taps, load(weight + c * (KERNEL * KERNEL) + at, mask)[None, :])
    return taps


@triton.jit
def shifted_masks(column, width, mask, KERNEL: tl.constexpr):
    """For each of K shifts, which pixels of a row there are; ``mask``: which channels."""
    inside = ()
    for kx in tl.static_range(KERNEL):
        at = column + (kx - KERNEL // 2)
        inside = append(inside, ((at >= 0) & (at < width))[:, None] & mask[None, :])
    return inside


@triton.jit
def row_exists(y, first, last):
    """(1, 1), whether y is among the rows from first to last: as a block, for the interpreter takes
    a scalar for a number where it is to be part of a mask."""
    y = tl.full((1, 1), y, tl.int32)
    return (y >= first) & (y < last)


@triton.jit
def load_row(row, stride_w, offsets, inside, exists, KERNEL: tl.constexpr):
    """A row of the tile at each of K shifts; zeros where it does not exist."""
    values = ()
    for kx in tl.static_range(KERNEL):
        at = row + (kx - KERNEL // 2) * stride_w + offsets
        values = append(values, tl.load(at, mask=inside[kx] & exists, other=0.0))
    return values


@triton.jit
def add_row(sums, values, taps, KERNEL: tl.constexpr):
    """The sums of K rows of out, from the top, with what this row of x adds to them."""
    wide = ()
    for kx in tl.static_range(KERNEL):
        wide = append(wide, values[kx].to(tl.float32))
    added = ()
    for j in tl.static_range(KERNEL):
        total = sums[j]
        for kx in tl.static_range(KERNEL):
            total += wide[kx] * taps[(KERNEL - 1 - j) * KERNEL + kx]
        added = append(added, total)
    return added


@triton.jit(do_not_specialize=SIZES)
def _depthwise_conv(
    x,  # (slots, C, H, W)
    out,  # (slots, C, H, W)
    weight,  # (all channels, K, K)
    bias,  # (all channels,) or None
    rank,
    height,
    width,
    strip,  # rows
    channel_blocks,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts; None: no plan, slots are images
    WINDOWS: tl.constexpr,
    TIMES: tl.constexpr,  # channels of an expert for each of its rank
    KERNEL: tl.constexpr,
    FLIP: tl.constexpr,
    AHEAD: tl.constexpr,  # rows
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    slot, e = slot_and_expert(tl.program_id(1), index, order, RANKS)
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    channels = TIMES * r
    x, out = aligned_strides(x, ALIGNED), aligned_strides(out, ALIGNED)
    # Programs of the same pixels follow each other.
    block, part = tl.program_id(0) % channel_blocks, tl.program_id(0) // channel_blocks
    if block * CHANNELS < channels:
        c = block * CHANNELS + tl.arange(0, CHANNELS)
        exists = c < aligned(channels, ALIGNED)
        taps = load_taps(weight, TIMES * rows + c, exists, KERNEL, FLIP)
        empty = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        if bias is not None:
            empty += load(bias + TIMES * rows + c, exists)[None, :]
        sums = (empty,) * KERNEL

        across = tl.cdiv(width, COLUMNS)
        column = part % across * COLUMNS + tl.arange(0, COLUMNS)
        inside = shifted_masks(column, width, exists, KERNEL)
        x_at, out_at = tile_offsets(x, column, c), tile_offsets(out, column, c)
        HALF: tl.constexpr = KERNEL // 2
        first = part // across * strip
        last = tl.minimum(first + strip, height)
        start, stop = tl.maximum(first - HALF, 0), tl.minimum(last + HALF, height)
        x_row = x.data + (slot * x.b + start.to(tl.int64) * x.h)
        out_row = out.data + (slot * out.b + (start - HALF).to(tl.int64) * out.h)
        values = ()
        for i in tl.static_range(AHEAD):
            there = row_exists(start + i, 0, stop)
            values += load_row(x_row, x.w, x_at, inside, there, KERNEL)
            x_row += x.h
        for y in range(start, last + HALF, AHEAD):
            later = ()
            for i in tl.static_range(AHEAD):
                sums = add_row(sums, values[i * KERNEL : (i + 1) * KERNEL], taps, KERNEL)
                there = row_exists(y + i + AHEAD, 0, stop)
                later += load_row(x_row, x.w, x_at, inside, there, KERNEL)
                x_row += x.h
                there = row_exists(y + i - HALF, first, last)
                store(out_row + out_at, sums[0], inside[HALF] & there)
                out_row += out.h
                sums = append(sums[1:], empty)
            values = later


@triton.jit(do_not_specialize=SIZES)
def _depthwise_conv_backward_weight(
    grad,  # (slots, C, H, W)
    x,  # (slots, C, H, W)
    sums,  # (splits, total (K K + 1))
    rank,
    height,
    width,
    strip,  # rows
    slots,
    total,  # channels of all experts
    order,  # (slots,): slots
    offsets,  # (experts + 1,)
    RANKS: tl.constexpr,  # of all experts; None: no plan, slots are images
    WINDOWS: tl.constexpr,
    TIMES: tl.constexpr,
    KERNEL: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """sums (splits, total (K K + 1)): the gradients of the taps, channel by channel, and after them
    grad's sums. A row of x meets the K rows of grad around it, which wait in registers."""
    block, split, e = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    channels = TIMES * r
    x, grad = aligned_strides(x, ALIGNED), aligned_strides(grad, ALIGNED)
    if block * CHANNELS < channels:
        first_slot, count = slots_of(e, offsets, slots, RANKS)
        c = block * CHANNELS + tl.arange(0, CHANNELS)
        exists = c < aligned(channels, ALIGNED)
        zero = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        found, found_bias = (zero,) * (KERNEL * KERNEL), zero
        HALF: tl.constexpr = KERNEL // 2
        across = tl.cdiv(width, COLUMNS)
        parts = across * tl.cdiv(height, strip)
        for i in range(split, count * parts, tl.num_programs(1)):
            slot = slot_at(first_slot + i // parts, order, RANKS)
            column = i % parts % across * COLUMNS + tl.arange(0, COLUMNS)
            inside = shifted_masks(column, width, exists, KERNEL)
            x_at, grad_at = tile_offsets(x, column, c), tile_offsets(grad, column, c)
            first = i % parts // across * strip
            last = tl.minimum(first + strip, height)
            start = first - HALF
            x_row = x.data + slot * x.b + start.to(tl.int64) * x.h
            grad_row = grad.data + slot * grad.b + first.to(tl.int64) * grad.h
            there = row_exists(start, 0, height)
            values = load_row(x_row, x.w, x_at, inside, there, KERNEL)
            arriving = tl.load(grad_row + grad_at, mask=inside[HALF], other=0.0)
            beside = (zero,) * KERNEL
            for y in range(start, last + HALF):
                beside = append(beside[1:], arriving.to(tl.float32))
                wide = ()
                for kx in tl.static_range(KERNEL):
                    wide = append(wide, values[kx].to(tl.float32))
                x_row += x.h
                grad_row += grad.h
                there = row_exists(y + 1, 0, height)
                values = load_row(x_row, x.w, x_at, inside, there, KERNEL)
                there = row_exists(y + 1 + HALF, first, last)
                arriving = tl.load(grad_row + grad_at, mask=inside[HALF] & there, other=0.0)
                found_bias += beside[KERNEL - 1]
                more = ()
                for t in tl.static_range(KERNEL * KERNEL):
                    at = found[t] + beside[KERNEL - 1 - t // KERNEL] * wide[t % KERNEL]
                    more = append(more, at)
                found = more
        TAPS: tl.constexpr = KERNEL * KERNEL
        to = sums + split.to(tl.int64) * (TAPS + 1) * total
        c += TIMES * rows
        for t in tl.static_range(TAPS):
            tl.store(to + c * TAPS + t, tl.sum(found[t], axis=0), mask=exists)
        tl.store(to + TAPS * total + c, tl.sum(found_bias, axis=0), mask=exists)


# --- launches ------------------------------------------------------------------------------------


class _Tile(NamedTuple):
    rows: int
    columns: int
    channels: int
    parts: int  # tiles of an image
    deep: int  # tiles of its channels


def channel_block(channels: int, most: int) -> int:
    return min(most, max(4, triton.next_power_of_2(channels)))


def column_block(elements: int, channels: int) -> int:
    """Columns of a tile. The interpreter is quickest with large ones."""
    return max(32, elements // channels) if interpreted() else elements // channels


def strip_rows(height: int, tiles: int) -> int:
    """Rows of a strip: many, since rows beside it are read twice, but enough strips for a GPU."""
    rows = 64
    while rows > 8 and tiles * blocks(height, rows) < 1024:
        rows //= 2
    return rows


def _tile(height: int, width: int, slots: int, channels: int, kernel: int, plan: Plan) -> _Tile:
    """Narrow for experts, of which many have few channels, and where K K taps or sums of a channel
    take many registers: 4 elements for a thread, or 2."""
    wide = channel_block(channels, 16 if kernel == 7 or plan.ranks else 32)
    columns = column_block(256 if kernel == 7 else 512, wide)
    across, deep = blocks(width, columns), blocks(channels, wide)
    rows = strip_rows(height, across * deep * slots)
    return _Tile(rows, columns, wide, across * blocks(height, rows), deep)


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    rank: int,
    plan: Plan,
    kernel: int,
    times: int = 1,
    flip: bool = False,
) -> None:
    """out = x * weight + bias. x and out: (slots, at least ``times * rank`` channels, H, W)."""
    slots, _, height, width = x.shape
    tile = _tile(height, width, slots, times * rank, kernel, plan)
    _depthwise_conv[tile.deep * tile.parts, slots](
        x=strided(x),
        out=strided(out),
        weight=weight,
        bias=bias,
        rank=rank,
        height=height,
        width=width,
        strip=tile.rows,
        channel_blocks=tile.deep,
        **plan.by_slot,
        TIMES=times,
        KERNEL=kernel,
        FLIP=flip,
        AHEAD=1 if kernel == 7 else 2,
        ALIGNED=alignment(plan.channels(rank, times), x, out),
        COLUMNS=tile.columns,
        CHANNELS=tile.channels,
        num_warps=4,
    )


def depthwise_weight_sums(
    grad: Tensor, x: Tensor, *, rank: int, plan: Plan, kernel: int, times: int = 1
) -> Tensor:
    """Parts of the sums that the gradients of weight and bias are, (parts, channels (K K + 1))."""
    slots, _, height, width = x.shape
    tile = _tile(height, width, slots, times * rank, kernel, plan)
    total = times * plan.total(rank)
    parts = splits(slots * tile.parts, max(1, 512 // tile.deep))
    taps = kernel**2
    sums = torch.empty((parts, total * (taps + 1)), dtype=torch.float32, device=x.device)
    _depthwise_conv_backward_weight[tile.deep, parts, plan.experts](
        grad=strided(grad),
        x=strided(x),
        sums=sums,
        rank=rank,
        height=height,
        width=width,
        strip=tile.rows,
        slots=slots,
        total=total,
        **plan.by_expert,
        TIMES=times,
        KERNEL=kernel,
        ALIGNED=alignment(plan.channels(rank, times), grad, x),
        COLUMNS=tile.columns,
        CHANNELS=tile.channels,
        num_warps=4,
    )
    return sums


def depthwise_backward_weight(
    grad: Tensor, x: Tensor, *, rank: int, plan: Plan, kernel: int
) -> tuple[Tensor, Tensor]:
    """The gradients of weight (channels, K, K) and bias (channels,)."""
    sums = depthwise_weight_sums(grad, x, rank=rank, plan=plan, kernel=kernel)
    return add_up(sums[None], (rank, kernel, kernel), (rank,))


# --- the operator --------------------------------------------------------------------------------


@implement("depthwise_conv")
def forward(x: Tensor, weight: Tensor, bias: Tensor | None, flip: bool) -> Tensor:
    out = new_like(x)
    if out.numel():
        size = {"rank": x.shape[1], "kernel": weight.shape[-1]}
        depthwise(x, weight.contiguous(), bias, out, plan=no_plan(), flip=flip, **size)
    return out


@implement("depthwise_conv_backward_weight")
def backward(grad: Tensor, x: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    if x.numel() == 0:
        new = x.new_zeros((channels, 1, kernel, kernel), dtype=torch.float32)
        return new, x.new_zeros((channels,), dtype=torch.float32)
    dweight, dbias = depthwise_backward_weight(
        grad, x, rank=channels, plan=no_plan(), kernel=kernel
    )
    return dweight.unsqueeze(1), dbias
