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
    image_of,
    implement,
    load,
    no_plan,
    scratch,
    slot_and_expert,
    store,
    strided,
)
from moce_kernels.triton_kernels._hartley import cas_matrix, multiply, transform
from moce_kernels.triton_kernels._norm_gate import norm_gate, norm_gate_backward
from moce_kernels.triton_kernels._sums import add_up

WARPS = 8


def tile_of(plan: Plan) -> tuple[int, int]:
    """Pixels along an edge of a tile, and channels of a program."""
    if interpreted():
        return (32, 32) if max(plan.windows) == 32 else (16, 32)
    return (32, 4) if max(plan.windows) == 32 else (16, 16)


@triton.jit
def _tile(image, y, x, c):
    """(y, x, channel) pointers into an image."""
    y, x, c = y.to(tl.int64), x.to(tl.int64), c.to(tl.int64)
    rows = (image.data + y * image.h)[:, None] + (x * image.w)[None, :]
    return rows[:, :, None] + (c * image.c)[None, None, :]


@triton.jit
def _window_conv(
    q,  # (slots, C, H, W)
    k,  # (slots, C, H, W)
    v,  # (slots, C, H, W)
    out,  # (slots, C, H, W)
    weight,  # (C,) or None
    bias,  # (C,) or None
    eps,
    rank,
    height,
    width,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts; None: no plan, slots are images
    WINDOWS: tl.constexpr,
    NORM: tl.constexpr,  # LayerNorm and product with v, all channels being in one program
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
):
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
        a = load(_tile(image_of(q, slot), y, x, c), mask)
        b = load(_tile(image_of(k, slot), y, x, c), mask)
        a, b = transform(a, cas, window, TILE, CHANNELS), transform(b, cas, window, TILE, CHANNELS)
        m = transform(multiply(a, b, window, False, TILE, CHANNELS), cas, window, TILE, CHANNELS)
        if NORM:
            inside = (c < r)[None, None, :]
            mean = tl.sum(tl.where(inside, m, 0.0), axis=2)[:, :, None] / r
            m = tl.where(inside, m - mean, 0.0)
            variance = tl.sum(m * m, axis=2)[:, :, None] / r
            scale, shift = load(weight + c, c < r), load(bias + c, c < r)
            m = m * tl.rsqrt(variance + eps) * scale[None, None, :] + shift[None, None, :]
            m = m * load(_tile(image_of(v, slot), y, x, c), mask)
        store(_tile(image_of(out, slot), y, x, c), m, mask)


@triton.jit
def _window_correlate(
    d,  # (slots, C, H, W)
    q,  # (slots, C, H, W)
    k,  # (slots, C, H, W)
    dq,  # (slots, C, H, W)
    dk,  # (slots, C, H, W)
    rank,
    height,
    width,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts; None: no plan, slots are images
    WINDOWS: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
):
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
        a = load(_tile(image_of(d, slot), y, x, c), mask)
        a = transform(a, cas, window, TILE, CHANNELS)
        b = load(_tile(image_of(k, slot), y, x, c), mask)
        b = multiply(a, transform(b, cas, window, TILE, CHANNELS), window, True, TILE, CHANNELS)
        b = transform(b, cas, window, TILE, CHANNELS)
        store(_tile(image_of(dq, slot), y, x, c), b, mask)
        b = load(_tile(image_of(q, slot), y, x, c), mask)
        b = multiply(a, transform(b, cas, window, TILE, CHANNELS), window, True, TILE, CHANNELS)
        b = transform(b, cas, window, TILE, CHANNELS)
        store(_tile(image_of(dk, slot), y, x, c), b, mask)


# --- launches ------------------------------------------------------------------------------------
# q, k, v and so on: (slots, at least `rank` channels, H, W), any strides.


def _tiles(t: Tensor, rank: int, tile: int, channels: int) -> tuple[int, int, int]:
    slots, _, height, width = t.shape
    return blocks(height, tile) * blocks(width, tile), blocks(rank, channels), slots


def window_conv(
    q: Tensor,
    k: Tensor,
    out: Tensor,
    *,
    rank: int,
    plan: Plan,
    v: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """out = q (*) k; with v, weight and bias LayerNorm(q (*) k) * v, if the channels fit a
    program."""
    height, width = q.shape[2:]
    tile, channels = tile_of(plan)
    _window_conv[_tiles(q, rank, tile, channels)](
        q=strided(q),
        k=strided(k),
        v=strided(q if v is None else v),
        out=strided(out),
        weight=weight,
        bias=bias,
        eps=eps,
        rank=rank,
        height=height,
        width=width,
        **plan.by_slot,
        NORM=v is not None,
        TILE=tile,
        CHANNELS=channels,
        num_warps=WARPS,
    )


def window_correlate(
    d: Tensor, q: Tensor, k: Tensor, dq: Tensor, dk: Tensor, *, rank: int, plan: Plan
) -> None:
    """dq and dk of d, the gradient of q (*) k."""
    height, width = q.shape[2:]
    tile, channels = tile_of(plan)
    if tile == 32:
        channels //= 2  # three tiles are held at a time: with more they would spill
    _window_correlate[_tiles(q, rank, tile, channels)](
        d=strided(d),
        q=strided(q),
        k=strided(k),
        dq=strided(dq),
        dk=strided(dk),
        rank=rank,
        height=height,
        width=width,
        **plan.by_slot,
        TILE=tile,
        CHANNELS=channels,
        num_warps=WARPS,
    )


# --- the operator --------------------------------------------------------------------------------


@implement("fft_attention")
def forward(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, window: int, eps: float
) -> Tensor:
    out, plan, rank = new_like(q), no_plan(window), q.shape[1]
    if out.numel() == 0:
        return out
    _, channels = tile_of(plan)
    if rank <= channels:
        window_conv(q, k, out, rank=rank, plan=plan, v=v, weight=weight, bias=bias, eps=eps)
        return out
    mixed = scratch(q, q.shape, torch.float32)
    window_conv(q, k, mixed, rank=rank, plan=plan)
    norm_gate(mixed, v, weight, bias, out, eps=eps, rank=rank, plan=plan)
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
    window_conv(q, k, mixed, rank=rank, plan=plan)
    sums = norm_gate_backward(grad, mixed, v, weight, bias, dv, eps=eps, rank=rank, plan=plan)
    dweight, dbias = add_up(sums.flatten(1)[None], (rank,), (rank,))
    window_correlate(mixed, q, k, dq, dk, rank=rank, plan=plan)
    return dq, dk, dv, dweight, dbias
