"""Triton kernels of channel_attention: out = W A v + b + residual, A = softmax(t q^ k^T) per head.

Two passes over the pixels. The first leaves q k^T (c x c for each head, c = C / heads) and the
squared lengths of q's and k's channels as sums over every n-th run of pixels, in float32 and in a
fixed order. A small launch adds them up, turns them into A, and folds A into the output projection:
M = W A, a matrix for each image. The second pass is pointwise_conv's kernel with
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
    columns_of,
    scores,
    softmax,
)
from moce_kernels.triton_kernels._common import (
    blocks,
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
from moce_kernels.triton_kernels._query_key_gradients import query_key_gradients
from moce_kernels.triton_kernels._sums import add_up, sum_of_parts
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
def _fold(
    sums,  # (B, parts, C c + 2 C)
    weight,  # (N, C)
    temperature,  # (heads,)
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    out,  # (B, N, C)
    parts,
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,  # at a time, of rows of q k^T
    MORE_PARTS: tl.constexpr,  # of squares
):
    """gram and squares, the sums of what ``_gram`` left, and out (B, N, C) = W A, head by head:
    (N, c) times (c, c). Each program adds up and makes the rows of A that it needs, some at a time,
    which is all of them."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    channels = heads * head
    stride = channels * (head + 2)
    sums += image * parts * stride
    gram += (image * heads + h) * head * head
    squares += image * 2 * channels + h * head
    own = sums + channels * head + h * head
    of_k = sum_of_parts(own + channels, j, j < head, parts, stride, MORE_PARTS, COLUMNS)
    kept = tl.where(tl.program_id(0) == 0, head, 0)  # one program stores the sums
    tl.store(squares + channels + j, of_k, mask=j < kept)
    by = tl.load(temperature + h)
    cells = tl.arange(0, DEPTH * COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, head, DEPTH):
        i = start + tl.arange(0, DEPTH)
        row, column = start + cells // COLUMNS, cells % COLUMNS
        inside = (row < head) & (column < head)
        at = row * head + column
        found = sum_of_parts(
            sums + h * head * head, at, inside, parts, stride, PARTS, DEPTH * COLUMNS
        )
        of_q = sum_of_parts(own, i, i < head, parts, stride, MORE_PARTS, DEPTH)
        tl.store(gram + at, found, mask=inside & (row < kept))
        tl.store(squares + i, of_q, mask=i < kept)
        dots = tl.reshape(found, (DEPTH, COLUMNS))
        value = softmax(scores(dots, of_q, of_k, by, j < head)[0])[0]
        at = weight + n[:, None] * channels + h * head + i[None, :]
        # Rows beyond the last of A are not zero, but these weights are.
        total += product(load(at, (n < rows)[:, None] & (i < head)[None, :]), value)
    to = out + image * rows * channels + n[:, None] * channels + h * head + j[None, :]
    store(to, total, (n < rows)[:, None] & (j < head)[None, :])


# --- launches ------------------------------------------------------------------------------------

MANY = 32  # parts that the programs of `_fold` can add up in passing
# Numbers of a head's parts that a program of `_fold` adds up in no more time than a launch takes.
CELLS = 150_000


def _parts_of(query: Tensor, key_value: Tensor | None) -> tuple[Tensor, ...]:
    """q, k and v, or their gradients, where they stand."""
    return query.chunk(3, 1) if key_value is None else (query, *key_value.chunk(2, 1))


def _parts_of_gram(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Parts of q k^T and of the sums of q^2 and of k^2: (B, parts, C c + 2 C)."""
    batch, channels, height, width = q.shape
    head, size = channels // heads, height * width
    wide = up_to(64, head)
    edge = blocks(head, wide)
    tiles, cells = batch * heads * edge * edge, head * (head + 2)
    if q.dtype == torch.float32:
        count, most = 16, 1024 // tiles
    else:
        # Two programs a multiprocessor. All that they leave of a head is added up by every program
        # of `_fold`.
        count, most = 8192 // wide, max(132 // tiles, min(264 // tiles, CELLS // cells))
    block = pixel_block(count, size)
    parts = splits(blocks(size, block), max(8, most))
    if q.dtype == torch.float32 and parts > MANY:
        parts -= parts % MANY
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
        num_warps=8,
    )
    if q.dtype == torch.float32 and parts > MANY:
        # Small tiles need so many programs that their sums are a launch of its own.
        return added_up(sums, MANY)
    return sums


def added_up(sums: Tensor, parts: int) -> Tensor:
    """The sums in fewer parts, a divisor of how many there are."""
    batch, count, size = sums.shape
    groups = batch * parts
    out, _ = add_up(sums.view(groups, count // parts, size), (batch, parts, size), (groups, 0))
    return out


def _folded(
    sums: Tensor, weight: Tensor, temperature: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q k^T (B, heads, c, c), the sums of q^2 and of k^2 (B, 2, C), and W A (B, N, C) in this
    dtype."""
    (batch, parts, _), (outer, channels) = sums.shape, weight.shape
    heads = len(temperature)
    head = channels // heads
    columns = columns_of(head)
    rows, depth = up_to(max(16, 4096 // columns), outer), max(16, min(columns, 1024 // columns))
    new = sums.new_empty
    gram, squares = new((batch, heads, head, head)), new((batch, 2, channels))
    out = new((batch, outer, channels), dtype=dtype)
    _fold[blocks(outer, rows), heads, batch](
        sums=sums,
        weight=weight,
        temperature=temperature,
        gram=gram,
        squares=squares,
        out=out,
        parts=parts,
        rows=outer,
        heads=heads,
        head=head,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=depth,
        PARTS=max(1, 16384 // (depth * columns)),
        MORE_PARTS=8192 // columns,
        num_warps=8 if columns < 256 else 16,
        num_stages=1,  # more would hold parts in shared memory, of which there is not enough
    )
    return gram, squares, out


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
    sums = _parts_of_gram(q, k, heads)
    return attend(v, sums, temperature, weight, bias, residual, out)


def attend(
    v: Tensor,
    sums: Tensor,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What follows the first pass, which left v and parts of the sums (B, parts, C c + 2 C)."""
    gram, squares, matrix = _folded(sums, weight, temperature, v.dtype)
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
    if grad.numel() == 0:
        dweight, dtemperature = torch.zeros_like(weight), torch.zeros_like(temperature)
        return dquery, dkey_value, dtemperature, dweight, weight.new_zeros(weight.shape[:1])
    q, k, v = _parts_of(query, key_value)
    dq, dk, dv = _parts_of(dquery, None if key_value is None else dkey_value)
    gram, squares = gram.contiguous(), squares.contiguous()

    dmatrix, dbias = pointwise_backward_weight(grad, v, each_image=True)
    # The weight's and the bias's in the images' own matrices first: a loop over them would be all
    # that a few programs do.
    matrix, dgram, row_slopes, column_slopes, dtemperature, dweight, dbias = attention_backward(
        gram, squares, temperature, weight, dmatrix, dbias, query.dtype
    )
    pointwise(grad, matrix.transpose(1, 2), None, dv)
    query_key_gradients((q, k), (dq, dk), dgram, squares, row_slopes, column_slopes)
    return dquery, dkey_value, dtemperature, dweight, dbias
