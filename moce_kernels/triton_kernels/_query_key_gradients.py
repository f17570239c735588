"""Gradients of q and k, of q k^T and of the lengths of their channels: a kernel of
channel_attention."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import (
    blocks,
    flat,
    float32_precision,
    image_of,
    load,
    pixel_block,
    places,
    product,
    store,
    strided,
    up_to,
)


@triton.jit
def _nearest_tf32(value):
    """Tensor cores cut off what TF32 has no place for."""
    bits = value.to(tl.int32, bitcast=True)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _query_key_gradients(
    q,  # (B, C, H, W)
    k,  # (B, C, H, W)
    dq,  # (B, C, H, W)
    dk,  # (B, C, H, W)
    dgram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    row_slopes,  # (B, C)
    column_slopes,  # (B, row_blocks, C): parts of sums
    row_blocks,
    heads,
    head,
    size,
    width,
    channel_blocks,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """dq = dG k + e q, dk = dG^T q + f k. dG is as small as q k^T is large, too small for float16:
    16-bit q and k are multiplied in TF32, which holds them exactly."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    first = tl.program_id(0) // channel_blocks * PIXELS
    p = tl.arange(0, PIXELS)
    inside = (p < size - first)[:, None]
    i = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    c = h * head + i
    q = image_of(q, image)
    k = image_of(k, image)
    dq = image_of(dq, image)
    dk = image_of(dk, image)
    dgram += (image * heads + h) * head * head
    by_k = tl.zeros((PIXELS, CHANNELS), tl.float32)
    by_q = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, head, DEPTH):
        j = start + tl.arange(0, DEPTH)
        mask = inside & (j < head)[None, :]
        other_q = load(places(q, first, p, h * head + j, width, FLAT), mask)
        other_k = load(places(k, first, p, h * head + j, width, FLAT), mask)
        mask = (j < head)[:, None] & (i < head)[None, :]
        d = load(dgram + i[None, :] * head + j[:, None], mask)
        transposed = load(dgram + j[:, None] * head + i[None, :], mask)
        if PRECISION == "tf32":
            d, transposed = _nearest_tf32(d), _nearest_tf32(transposed)
        by_k += product(other_k, d, PRECISION)
        by_q += product(other_q, transposed, PRECISION)
    mask = inside & (i < head)[None, :]
    of_row = image * heads * head + h * head + i
    at = squares + image * 2 * heads * head + h * head + i
    # No gradient goes through a length that is taken to be 1e-12.
    square = load(at, i < head)
    e = tl.where(square > 1e-24, -load(row_slopes + of_row, i < head) / square, 0.0)
    own = load(places(q, first, p, c, width, FLAT), mask)
    at = places(dq, first, p, c, width, FLAT)
    store(at, by_k + own * e[None, :], mask)
    at = squares + (image * 2 + 1) * heads * head + h * head + i
    square = load(at, i < head)
    slope = tl.zeros((CHANNELS,), tl.float32)
    column_slopes += image * row_blocks * heads * head + h * head
    for part in range(row_blocks):
        slope += load(column_slopes + part * heads * head + i, i < head)
    e = tl.where(square > 1e-24, -slope / square, 0.0)
    own = load(places(k, first, p, c, width, FLAT), mask)
    at = places(dk, first, p, c, width, FLAT)
    store(at, by_q + own * e[None, :], mask)


def query_key_gradients(
    of: tuple[Tensor, Tensor],
    to: tuple[Tensor, Tensor],
    dgram: Tensor,
    squares: Tensor,
    row_slopes: Tensor,
    column_slopes: Tensor,
) -> None:
    """Writes the gradients of q and k, ``of`` (B, C, H, W) each, into ``to``; the others as in the
    kernel."""
    (q, k), (dq, dk) = of, to
    (batch, _, height, width), (heads, head) = q.shape, dgram.shape[1:3]
    size, wide = height * width, up_to(64, head)
    block, channel_blocks = pixel_block(64, size), blocks(head, wide)
    _query_key_gradients[blocks(size, block) * channel_blocks, heads, batch](
        q=strided(q),
        k=strided(k),
        dq=strided(dq),
        dk=strided(dk),
        dgram=dgram,
        squares=squares,
        row_slopes=row_slopes,
        column_slopes=column_slopes,
        row_blocks=column_slopes.shape[1],
        heads=heads,
        head=head,
        size=size,
        width=width,
        channel_blocks=channel_blocks,
        FLAT=flat(q, k, dq, dk),
        PRECISION=float32_precision() if q.dtype == torch.float32 else "tf32",
        PIXELS=block,
        CHANNELS=wide,
        DEPTH=16,
        num_warps=8,
    )
