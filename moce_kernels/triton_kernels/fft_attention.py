"""Triton kernels of fft_attention: out = LayerNorm_C(q (*) k) * v, and its gradients.

``(*)`` is the circular convolution of each window, computed tile by tile (see _hartley.py). Where
all channels of a tile fit one program, normalisation and product with v follow there: q, k and v
are read once and the result is written once, 4 elements for each of its elements. Else the
convolution goes to float32 scratch and a second kernel, over all channels of a few pixels, reads it
again: 8 bytes more for each element.

Backward recomputes the convolution, then one kernel takes the gradient through the product and the
LayerNorm (in place in that scratch; sums for weight and bias in float32, in a fixed order) and
another correlates it with k and with q: 10 elements and 20 bytes for each element.

Float operations for each element, TILE being 16, or 32 for windows of 32: 12 TILE forward (three
transforms of 2 TILE multiply-adds), 32 TILE backward. Forward it is bound by memory for windows up
to 16, by arithmetic for 32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels import interpreted
from moce_kernels.triton_kernels._common import (
    Plan,
    blocks,
    expert_shape,
    implement,
    load,
    no_plan,
    pixel_block,
    pixels,
    scratch,
    slot_and_expert,
    slot_at,
    slots_of,
    splits,
    store,
    strided,
)
from moce_kernels.triton_kernels._hartley import cas_matrix, multiply, transform

WARPS = 8


def tile_of(plan: Plan) -> tuple[int, int]:
    """Pixels along an edge of a tile, and channels of a program."""
    if interpreted():
        return (32, 32) if max(plan.windows) == 32 else (16, 32)
    return (32, 4) if max(plan.windows) == 32 else (16, 16)


@triton.jit
def _tile(pointer, stride_c, stride_h, stride_w, y, x, c):
    y, x, c = y.to(tl.int64), x.to(tl.int64), c.to(tl.int64)
    rows = (pointer + y * stride_h)[:, None] + (x * stride_w)[None, :]
    return rows[:, :, None] + (c * stride_c)[None, None, :]


@triton.jit
def _window_conv(
    q, q_b, q_c, q_h, q_w,
    k, k_b, k_c, k_h, k_w,
    v, v_b, v_c, v_h, v_w,
    out, out_b, out_c, out_h, out_w,
    weight, bias, eps,
    rank, height, width,
    index, order,
    RANKS: tl.constexpr,
    WINDOWS: tl.constexpr,
    NORM: tl.constexpr,  # LayerNorm and product with v, all channels being in one program
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = q (*) k, or the whole operator."""
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, _, _, window = expert_shape(e, RANKS, WINDOWS, rank)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    if tl.program_id(1) * CHANNELS < r:
        columns = tl.cdiv(width, TILE)
        y = tl.program_id(0) // columns * TILE + tl.arange(0, TILE)
        x = tl.program_id(0) % columns * TILE + tl.arange(0, TILE)
        mask = (y < height)[:, None, None] & (x < width)[None, :, None] & (c < r)[None, None, :]

        cas = cas_matrix(window, TILE)
        a = load(_tile(q + slot * q_b, q_c, q_h, q_w, y, x, c), mask)
        b = load(_tile(k + slot * k_b, k_c, k_h, k_w, y, x, c), mask)
        a, b = transform(a, cas, window, TILE, CHANNELS), transform(b, cas, window, TILE, CHANNELS)
        m = transform(multiply(a, b, window, False, TILE, CHANNELS), cas, window, TILE, CHANNELS)
        if NORM:
            inside = (c < r)[None, None, :]
            mean = tl.sum(tl.where(inside, m, 0.0), axis=2)[:, :, None] / r
            m = tl.where(inside, m - mean, 0.0)
            variance = tl.sum(m * m, axis=2)[:, :, None] / r
            scale, shift = load(weight + c, c < r), load(bias + c, c < r)
            m = m * tl.rsqrt(variance + eps) * scale[None, None, :] + shift[None, None, :]
            m = m * load(_tile(v + slot * v_b, v_c, v_h, v_w, y, x, c), mask)
        store(_tile(out + slot * out_b, out_c, out_h, out_w, y, x, c), m, mask)


@triton.jit
def _normalise(m, inside, r, eps):
    """LayerNorm without weight and bias over axis 1, and the inverse of the deviation."""
    mean = tl.sum(tl.where(inside, m, 0.0), axis=1)[:, None] / r
    m = tl.where(inside, m - mean, 0.0)
    deviation = tl.rsqrt(tl.sum(m * m, axis=1)[:, None] / r + eps)
    return m * deviation, deviation


@triton.jit
def _norm_gate(
    mixed, mixed_b, mixed_c, mixed_h, mixed_w,
    v, v_b, v_c, v_h, v_w,
    out, out_b, out_c, out_h, out_w,
    weight, bias, eps,
    rank, size, width,
    index, order,
    RANKS: tl.constexpr,
    WINDOWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,  # at least every rank
):  # fmt: skip
    """out = LayerNorm(mixed) * v. With a plan, the values stand after as many keys."""
    slot, e = slot_and_expert(tl.program_id(1), index, order, RANKS)
    r, rows, _, _ = expert_shape(e, RANKS, WINDOWS, rank)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.arange(0, CHANNELS)
    mask = (p < size)[:, None] & (c < r)[None, :]
    m = load(pixels(mixed + slot * mixed_b, mixed_c, mixed_h, mixed_w, p, c, width), mask)
    if RANKS is not None:
        v += r * v_c
    gate = load(pixels(v + slot * v_b, v_c, v_h, v_w, p, c, width), mask)
    scale, shift = load(weight + rows + c, c < r), load(bias + rows + c, c < r)
    normed, _ = _normalise(m, (c < r)[None, :], r, eps)
    value = (normed * scale[None, :] + shift[None, :]) * gate
    store(pixels(out + slot * out_b, out_c, out_h, out_w, p, c, width), value, mask)


@triton.jit
def _norm_gate_backward(
    grad, grad_b, grad_c, grad_h, grad_w,
    mixed, mixed_b, mixed_c, mixed_h, mixed_w,
    v, v_b, v_c, v_h, v_w,
    dv, dv_b, dv_c, dv_h, dv_w,
    sums,
    weight, bias, eps,
    rank, size, width, slots, total,
    order, offsets,
    RANKS: tl.constexpr,
    WINDOWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
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
        v += r * v_c
        dv += r * dv_c
    parts = tl.cdiv(size, PIXELS)
    for i in range(tl.program_id(0), count * parts, tl.num_programs(0)):
        slot = slot_at(first + i // parts, order, RANKS)
        p = i % parts * PIXELS + tl.arange(0, PIXELS)
        mask = (p < size)[:, None] & inside
        place = pixels(mixed + slot * mixed_b, mixed_c, mixed_h, mixed_w, p, c, width)
        normed, deviation = _normalise(load(place, mask), inside, r, eps)
        upstream = load(pixels(grad + slot * grad_b, grad_c, grad_h, grad_w, p, c, width), mask)
        value = load(pixels(v + slot * v_b, v_c, v_h, v_w, p, c, width), mask)
        dvalue = upstream * (normed * scale[None, :] + shift[None, :])
        store(pixels(dv + slot * dv_b, dv_c, dv_h, dv_w, p, c, width), dvalue, mask)
        d = upstream * value
        normed = tl.where(mask, normed, 0.0)
        dscale += tl.sum(d * normed, axis=0)
        dshift += tl.sum(d, axis=0)
        d *= scale[None, :]
        d -= tl.sum(d, axis=1)[:, None] / r  # first: with few channels little remains
        d = (d - normed * (tl.sum(d * normed, axis=1)[:, None] / r)) * deviation
        tl.store(place, d, mask=mask)
    to = sums + tl.program_id(0).to(tl.int64) * 2 * total + rows + c
    tl.store(to, dscale, mask=c < r)
    tl.store(to + total, dshift, mask=c < r)


@triton.jit
def _window_correlate(
    d, d_b, d_c, d_h, d_w,
    q, q_b, q_c, q_h, q_w,
    k, k_b, k_c, k_h, k_w,
    dq, dq_b, dq_c, dq_h, dq_w,
    dk, dk_b, dk_c, dk_h, dk_w,
    rank, height, width,
    index, order,
    RANKS: tl.constexpr,
    WINDOWS: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of q (*) k: d correlated with k and with q."""
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, _, _, window = expert_shape(e, RANKS, WINDOWS, rank)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    if tl.program_id(1) * CHANNELS < r:
        columns = tl.cdiv(width, TILE)
        y = tl.program_id(0) // columns * TILE + tl.arange(0, TILE)
        x = tl.program_id(0) % columns * TILE + tl.arange(0, TILE)
        mask = (y < height)[:, None, None] & (x < width)[None, :, None] & (c < r)[None, None, :]

        cas = cas_matrix(window, TILE)
        a = load(_tile(d + slot * d_b, d_c, d_h, d_w, y, x, c), mask)
        a = transform(a, cas, window, TILE, CHANNELS)
        b = load(_tile(k + slot * k_b, k_c, k_h, k_w, y, x, c), mask)
        b = multiply(a, transform(b, cas, window, TILE, CHANNELS), window, True, TILE, CHANNELS)
        b = transform(b, cas, window, TILE, CHANNELS)
        store(_tile(dq + slot * dq_b, dq_c, dq_h, dq_w, y, x, c), b, mask)
        b = load(_tile(q + slot * q_b, q_c, q_h, q_w, y, x, c), mask)
        b = multiply(a, transform(b, cas, window, TILE, CHANNELS), window, True, TILE, CHANNELS)
        b = transform(b, cas, window, TILE, CHANNELS)
        store(_tile(dk + slot * dk_b, dk_c, dk_h, dk_w, y, x, c), b, mask)


# --- launches ------------------------------------------------------------------------------------
# q, k, v and so on: (slots, at least `rank` channels, H, W), any strides.


def _tiles(t: Tensor, rank: int, tile: int, channels: int) -> tuple[int, int, int]:
    slots, _, height, width = t.shape
    return blocks(height, tile) * blocks(width, tile), blocks(rank, channels), slots


def _all_channels(rank: int, most: int, size: int) -> tuple[int, int]:
    """Pixels and channels of a program that sees all channels."""
    channels = triton.next_power_of_2(max(rank, 16))
    return pixel_block(max(1, most // channels), size), channels


def window_conv(q: Tensor, k: Tensor, rank: int, plan: Plan, out: Tensor) -> None:
    """out = q (*) k."""
    tile, channels = tile_of(plan)
    _window_conv[_tiles(q, rank, tile, channels)](
        *strided(q), *strided(k), *strided(q), *strided(out),
        None, None, 0.0,
        rank, *q.shape[2:],
        plan.expert, plan.order, plan.ranks, plan.windows,
        NORM=False, TILE=tile, CHANNELS=channels, num_warps=WARPS,
    )  # fmt: skip


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, window: int, eps: float,
    out: Tensor,
) -> bool:  # fmt: skip
    """out = LayerNorm(q (*) k) * v in one launch, if the channels fit."""
    plan = no_plan(window)
    tile, channels = tile_of(plan)
    if q.shape[1] > channels:
        return False
    _window_conv[_tiles(q, q.shape[1], tile, channels)](
        *strided(q), *strided(k), *strided(v), *strided(out),
        weight, bias, eps,
        *q.shape[1:],
        plan.expert, plan.order, plan.ranks, plan.windows,
        NORM=True, TILE=tile, CHANNELS=channels, num_warps=WARPS,
    )  # fmt: skip
    return True


def norm_gate(
    mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor, eps: float, rank: int, plan: Plan,
    out: Tensor,
) -> None:  # fmt: skip
    """out = LayerNorm(mixed) * v."""
    slots, _, height, width = mixed.shape
    size = height * width
    block, channels = _all_channels(rank, 4096, size)
    _norm_gate[blocks(size, block), slots](
        *strided(mixed), *strided(v), *strided(out),
        weight, bias, eps,
        rank, size, width,
        plan.expert, plan.order, plan.ranks, plan.windows,
        PIXELS=block, CHANNELS=channels, num_warps=4,
    )  # fmt: skip


def norm_gate_backward(
    grad: Tensor, mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor, eps: float, rank: int,
    plan: Plan, dv: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Writes dv, turns mixed into its gradient, and returns those of weight and bias."""
    slots, _, height, width = mixed.shape
    size = height * width
    block, channels = _all_channels(rank, 2048, size)
    total = plan.total(rank)
    parts = splits(slots * blocks(size, block))
    sums = torch.empty((parts, 2, total), dtype=torch.float32, device=mixed.device)
    _norm_gate_backward[parts, plan.experts](
        *strided(grad), *strided(mixed), *strided(v), *strided(dv),
        sums,
        weight, bias, eps,
        rank, size, width, slots, total,
        plan.order, plan.offsets, plan.ranks, plan.windows,
        PIXELS=block, CHANNELS=channels, num_warps=4,
        # A product fused with the difference that follows is not what its mean was taken of: over
        # one channel that left 2e-6 where there is nothing.
        enable_fp_fusion=False,
    )  # fmt: skip
    dweight, dbias = sums.sum(dim=0)
    return dweight, dbias


def window_correlate(
    d: Tensor, q: Tensor, k: Tensor, rank: int, plan: Plan, dq: Tensor, dk: Tensor
) -> None:
    """dq and dk of d, the gradient of q (*) k."""
    tile, channels = tile_of(plan)
    if tile == 32:
        channels //= 2  # three tiles are held at a time: with more they would spill
    _window_correlate[_tiles(q, rank, tile, channels)](
        *strided(d), *strided(q), *strided(k), *strided(dq), *strided(dk),
        rank, *q.shape[2:],
        plan.expert, plan.order, plan.ranks, plan.windows,
        TILE=tile, CHANNELS=channels, num_warps=WARPS,
    )  # fmt: skip


# --- the operator --------------------------------------------------------------------------------


@implement("fft_attention")
def forward(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, window: int, eps: float
) -> Tensor:
    out = new_like(q)
    if out.numel() and not window_attention(q, k, v, weight, bias, window, eps, out):
        plan, rank = no_plan(window), q.shape[1]
        mixed = scratch(q, q.shape, torch.float32)
        window_conv(q, k, rank, plan, mixed)
        norm_gate(mixed, v, weight, bias, eps, rank, plan, out)
    return out


@implement("fft_attention_backward")
def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = new_like(q), new_like(k), new_like(v)
    if q.numel() == 0:
        return dq, dk, dv, torch.zeros_like(weight), torch.zeros_like(bias)
    plan, rank = no_plan(window), q.shape[1]
    mixed = scratch(q, q.shape, torch.float32)
    window_conv(q, k, rank, plan, mixed)
    dweight, dbias = norm_gate_backward(grad, mixed, v, weight, bias, eps, rank, plan, dv)
    window_correlate(mixed, q, k, rank, plan, dq, dk)
    return dq, dk, dv, dweight, dbias
