"""Triton kernels of channel_attention: out = W A v + b + residual, A = softmax(t q^ k^T) per head.

Two passes over the pixels. The first leaves q k^T (c x c for each head, c = C / heads) and the
squared lengths of q's and k's channels as sums over every n-th run of pixels, in float32 and in a
fixed order, which are added up after. A small launch turns them into A and folds A into the output
projection: M = W A, a matrix for each image. The second pass is pointwise_conv's kernel with
M for its matrix. 3 C + N elements are moved for each pixel and N more with a residual, and
2 C (c + N) float operations done: with 16-bit activations bound by memory, float32 by arithmetic.

Backward: dM = grad v^T is the gradient of pointwise_conv's matrix, image by image; small launches
take it through the softmax and the lengths. Then one pass for dv = M^T grad, and one for
dq = dG k + e q and dk = dG^T q + f k, dG being the gradient of q k^T, and e and f those of the
squared lengths. 2 N + 6 C elements for each pixel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels._channel_matrices import (
    attention_backward,
    folded,
)
from moce_kernels.triton_kernels._common import (
    add_up,
    blocks,
    compute_capability,
    flat,
    float32_precision,
    image_of,
    implement,
    load,
    pixel_block,
    places,
    product,
    splits,
    store,
    strided,
    up_to,
)
from moce_kernels.triton_kernels.pointwise_conv import pointwise, pointwise_backward_weight


@triton.jit
def _gram(
    q,  # (B, C, H, W)
    k,  # (B, C, H, W)
    sums,  # (B, splits, C c + 2 C)
    heads,
    head,
    size,
    width,
    edge,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """sums (B, splits, C c + 2 C): of q k^T (heads, c, c), then of q^2 and k^2 (2, C). A head's
    matrix has ``edge`` tiles along each edge."""
    image = tl.program_id(2).to(tl.int64)
    h, tile = tl.program_id(1) // (edge * edge), tl.program_id(1) % (edge * edge)
    i = tile // edge * CHANNELS + tl.arange(0, CHANNELS)
    j = tile % edge * CHANNELS + tl.arange(0, CHANNELS)
    q = image_of(q, image)
    k = image_of(k, image)
    found = tl.zeros((CHANNELS, CHANNELS), tl.float32)
    of_q = tl.zeros((PIXELS, CHANNELS), tl.float32)  # added up once, after all
    of_k = tl.zeros((PIXELS, CHANNELS), tl.float32)
    p = tl.arange(0, PIXELS)
    for first in range(tl.program_id(0) * PIXELS, size, tl.num_programs(0) * PIXELS):
        inside = (p < size - first)[:, None]
        at = places(q, first, p, h * head + i, width, FLAT)
        left = tl.load(at, mask=inside & (i < head)[None, :], other=0.0)
        at = places(k, first, p, h * head + j, width, FLAT)
        right = tl.load(at, mask=inside & (j < head)[None, :], other=0.0)
        found += product(tl.trans(left), right, PRECISION)
        wide = left.to(tl.float32)
        of_q += wide * wide
        wide = right.to(tl.float32)
        of_k += wide * wide
    part = image * tl.num_programs(0) + tl.program_id(0)
    sums += part * heads * head * (head + 2) + h * head
    at = sums + (h * (head - 1) + i)[:, None] * head + j[None, :]
    tl.store(at, found, mask=(i < head)[:, None] & (j < head)[None, :])
    sums += heads * head * head
    if tile % edge == 0:
        tl.store(sums + i, tl.sum(of_q, axis=0), mask=i < head)
    if tile // edge == 0:
        tl.store(sums + heads * head + j, tl.sum(of_k, axis=0), mask=j < head)


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


# --- launches ------------------------------------------------------------------------------------


def _parts_of(query: Tensor, key_value: Tensor | None) -> tuple[Tensor, ...]:
    """q, k and v, or their gradients, where they stand."""
    return query.chunk(3, 1) if key_value is None else (query, *key_value.chunk(2, 1))


def _gram_and_squares(q: Tensor, k: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """q k^T (B, heads, c, c) and the sums of q^2 and of k^2 (B, 2, C)."""
    batch, channels, height, width = q.shape
    head, size = channels // heads, height * width
    wide = up_to(64, head)
    edge = blocks(head, wide)
    if q.dtype == torch.float32:
        count, warps = 16, 8
    elif compute_capability() >= 100:
        count, warps = 32, 8  # what follows would spill
    else:
        count, warps = 64, 4
    block = pixel_block(count, size)
    # Some eight programs a multiprocessor, so that enough loads are under way; sums for each.
    parts = splits(blocks(size, block), max(8, 1024 // (batch * heads * edge * edge)))
    sums = q.new_empty((batch, parts, channels * (head + 2)), dtype=torch.float32)
    _gram[parts, heads * edge * edge, batch](
        q=strided(q),
        k=strided(k),
        sums=sums,
        heads=heads,
        head=head,
        size=size,
        width=width,
        edge=edge,
        FLAT=flat(q, k),
        PRECISION=float32_precision(sensitive=True),
        PIXELS=block,
        CHANNELS=wide,
        num_warps=warps,
    )
    return add_up(sums, (batch, heads, head, head), (batch, 2, channels))


# --- the operator --------------------------------------------------------------------------------


@implement("channel_attention")
def forward(
    query: Tensor,
    key_value: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    (outer, channels), heads, batch = weight.shape, temperature.shape[0], query.shape[0]
    head = channels // heads
    out = new_like(query, outer)
    if out.numel() == 0:
        return (
            out,
            weight.new_zeros((batch, heads, head, head)),
            weight.new_zeros((batch, 2, channels)),
        )
    q, k, v = _parts_of(query, key_value)
    gram, squares = _gram_and_squares(q, k, heads)
    matrix = folded(weight, gram, squares, temperature, query.dtype)
    pointwise(v, matrix, bias, out, residual=residual)
    return out, gram, squares


@implement("channel_attention_backward")
def backward(
    grad: Tensor,
    query: Tensor,
    key_value: Tensor | None,
    gram: Tensor,
    squares: Tensor,
    temperature: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dquery = new_like(query)
    dkey_value = weight.new_empty((0,)) if key_value is None else new_like(key_value)
    batch, heads, head, _ = gram.shape
    if grad.numel() == 0:
        dweight, dtemperature = torch.zeros_like(weight), torch.zeros_like(temperature)
        return dquery, dkey_value, dtemperature, dweight, weight.new_zeros(weight.shape[:1])
    q, k, v = _parts_of(query, key_value)
    dq, dk, dv = _parts_of(dquery, None if key_value is None else dkey_value)
    gram, squares = gram.contiguous(), squares.contiguous()

    dmatrix, dbias = pointwise_backward_weight(grad, v, each_image=True)
    matrix = folded(weight, gram, squares, temperature, query.dtype)
    pointwise(grad, matrix.transpose(1, 2), None, dv)

    # The weight's and the bias's in the images' own matrices first: a loop over them would be all
    # that a few programs do.
    dgram, row_slopes, column_slopes, dtemperature, dweight, dbias = attention_backward(
        gram, squares, temperature, weight, dmatrix, dbias
    )

    height, width = q.shape[2:]
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
    return dquery, dkey_value, dtemperature, dweight, dbias
