"""LayerNorm over channels and the product with v: kernels of fft_attention."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._channel_norm import normalise, normalise_gradient
from moce_kernels.triton_kernels._common import (
    Plan,
    Strided,
    blocks,
    expert_shape,
    image_of,
    load,
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
def after_keys(t, r):
    """The values, which stand after r channels of keys."""
    return Strided(t.data + r * t.c, t.b, t.c, t.h, t.w)


@triton.jit
def _normalise(m, inside, r, eps):
    """As ``normalise``; m need not be zero where not inside."""
    return normalise(tl.where(inside, m, 0.0), inside, r, eps)


@triton.jit
def _norm_gate(
    mixed,  # (slots, C, H, W), float32
    v,  # (slots, C, H, W); with a plan, (slots, 2 C, H, W)
    out,  # (slots, C, H, W)
    weight,  # (all ranks,)
    bias,  # (all ranks,)
    eps,
    rank,
    size,
    width,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts; None: no plan, slots are images
    WINDOWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,  # at least every rank
):
    """out = LayerNorm(mixed) * v. With a plan, the values stand after as many keys."""
    slot, e = slot_and_expert(tl.program_id(1), index, order, RANKS)
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.arange(0, CHANNELS)
    mask = (p < size)[:, None] & (c < r)[None, :]
    m = load(pixels(image_of(mixed, slot), p, c, width), mask)
    if RANKS is not None:
        v = after_keys(v, r)
    gate = load(pixels(image_of(v, slot), p, c, width), mask)
    scale, shift = load(weight + rows + c, c < r), load(bias + rows + c, c < r)
    normed, _ = _normalise(m, (c < r)[None, :], r, eps)
    value = (normed * scale[None, :] + shift[None, :]) * gate
    store(pixels(image_of(out, slot), p, c, width), value, mask)


@triton.jit
def _norm_gate_backward(
    grad,  # (slots, C, H, W)
    mixed,  # (slots, C, H, W), float32
    v,  # (slots, C, H, W); with a plan, (slots, 2 C, H, W)
    dv,  # as v
    sums,  # (splits, 2, total)
    weight,  # (all ranks,)
    bias,  # (all ranks,)
    eps,
    rank,
    size,
    width,
    slots,
    total,  # of all ranks
    order,  # (slots,): slots
    offsets,  # (experts + 1,)
    RANKS: tl.constexpr,  # of all experts; None: no plan, slots are images
    WINDOWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dv, the gradient of mixed in its place, and sums (splits, 2, total) for weight and bias."""
    e = tl.program_id(1)
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    first, count = slots_of(e, offsets, slots, RANKS)
    c = tl.arange(0, CHANNELS)
    inside = (c < r)[None, :]
    scale, shift = load(weight + rows + c, c < r), load(bias + rows + c, c < r)
    dscale = tl.zeros((CHANNELS,), tl.float32)
    dshift = tl.zeros((CHANNELS,), tl.float32)
    if RANKS is not None:
        v, dv = after_keys(v, r), after_keys(dv, r)
    parts = tl.cdiv(size, PIXELS)
    for i in range(tl.program_id(0), count * parts, tl.num_programs(0)):
        slot = slot_at(first + i // parts, order, RANKS)
        p = i % parts * PIXELS + tl.arange(0, PIXELS)
        mask = (p < size)[:, None] & inside
        place = pixels(image_of(mixed, slot), p, c, width)
        normed, inverse = _normalise(load(place, mask), inside, r, eps)
        upstream = load(pixels(image_of(grad, slot), p, c, width), mask)
        value = load(pixels(image_of(v, slot), p, c, width), mask)
        dvalue = upstream * (normed * scale[None, :] + shift[None, :])
        store(pixels(image_of(dv, slot), p, c, width), dvalue, mask)
        d = upstream * value
        normed = tl.where(mask, normed, 0.0)
        dscale += tl.sum(d * normed, axis=0)
        dshift += tl.sum(d, axis=0)
        d = normalise_gradient(d * scale[None, :], normed, inverse, r)
        tl.store(place, d, mask=mask)
    to = sums + tl.program_id(0).to(tl.int64) * 2 * total + rows + c
    tl.store(to, dscale, mask=c < r)
    tl.store(to + total, dshift, mask=c < r)


# --- launches ------------------------------------------------------------------------------------
# mixed, v and so on: (slots, at least `rank` channels, H, W), any strides.


def _all_channels(rank: int, most: int, size: int) -> tuple[int, int]:
    """Pixels and channels of a program that sees all channels."""
    channels = triton.next_power_of_2(max(rank, 16))
    return pixel_block(max(1, most // channels), size), channels


def norm_gate(
    mixed: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    eps: float,
    rank: int,
    plan: Plan,
) -> None:
    """out = LayerNorm(mixed) * v."""
    slots, _, height, width = mixed.shape
    size = height * width
    block, channels = _all_channels(rank, 4096, size)
    _norm_gate[blocks(size, block), slots](
        mixed=strided(mixed),
        v=strided(v),
        out=strided(out),
        weight=weight,
        bias=bias,
        eps=eps,
        rank=rank,
        size=size,
        width=width,
        **plan.by_slot,
        PIXELS=block,
        CHANNELS=channels,
        num_warps=4,
    )


def norm_gate_backward(
    grad: Tensor,
    mixed: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    dv: Tensor,
    *,
    eps: float,
    rank: int,
    plan: Plan,
) -> Tensor:
    """Writes dv, turns mixed into its gradient, and returns parts of the sums that those of weight
    and bias are, (parts, 2, channels)."""
    slots, _, height, width = mixed.shape
    size = height * width
    block, channels = _all_channels(rank, 2048, size)
    total = plan.total(rank)
    parts = splits(slots * blocks(size, block))
    sums = torch.empty((parts, 2, total), dtype=torch.float32, device=mixed.device)
    _norm_gate_backward[parts, plan.experts](
        grad=strided(grad),
        mixed=strided(mixed),
        v=strided(v),
        dv=strided(dv),
        sums=sums,
        weight=weight,
        bias=bias,
        eps=eps,
        rank=rank,
        size=size,
        width=width,
        slots=slots,
        total=total,
        **plan.by_expert,
        PIXELS=block,
        CHANNELS=channels,
        num_warps=4,
        # A product fused with the difference that follows is not what its mean was taken of: over
        # one channel that left 2e-6 where there is nothing.
        enable_fp_fusion=False,
    )
    return sums
