"""The heads' matrices of channel_attention, between its passes over the pixels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import blocks, exp, load, product, store
from moce_kernels.triton_kernels._sums import sum_of_parts


@triton.jit
def _scores(
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    image,
    h,
    i,
    j,
    heads,
    head,
):
    """``scores`` of rows i and columns j of a head's matrix, all that is needed being in memory."""
    mask = (i < head)[:, None] & (j < head)[None, :]
    matrix = (image * heads + h) * head * head
    dots = load(gram + matrix + i[:, None] * head + j[None, :], mask)
    at = squares + (image * 2 * heads + h) * head
    of_q, of_k = load(at + i, i < head), load(at + heads * head + j, j < head)
    return scores(dots, of_q, of_k, tl.load(temperature + h), j < head)


@triton.jit
def scores(dots, of_q, of_k, temperature, inside):
    """Of rows of a head's matrix, given q k^T, q^2 and k^2: the cosines times the temperature, the
    cosines, the lengths of q's and k's channels."""
    q, k = tl.maximum(tl.sqrt_rn(of_q), 1e-12), tl.maximum(tl.sqrt_rn(of_k), 1e-12)
    cosine = tl.div_rn(dots, q[:, None] * k[None, :])
    return tl.where(inside[None, :], cosine * temperature, float("-inf")), cosine, q, k


@triton.jit
def softmax(score):
    """A, of whole rows; the largest of each row and the sum that it is divided by."""
    most = tl.max(score, axis=1)
    score = exp(score - most[:, None])
    total = tl.sum(score, axis=1)
    return tl.div_rn(score, total[:, None]), most, total


@triton.jit
def fold_rows(
    weight,  # (N, C)
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    out,  # (B, N, C)
    block,
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A block of rows of out (B, N, C) = W A, head by head: (N, c) times (c, c). Each program makes
    the rows of A that it needs, a few at a time."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    n = block * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    channels = heads * head
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, head, DEPTH):
        i = start + tl.arange(0, DEPTH)
        score = _scores(gram, squares, temperature, image, h, i, j, heads, head)[0]
        value = softmax(score)[0]
        at = weight + n[:, None] * channels + h * head + i[None, :]
        # Rows beyond the last of A are not zero, but these weights are.
        total += product(load(at, (n < rows)[:, None] & (i < head)[None, :]), value)
    to = out + image * rows * channels + n[:, None] * channels + h * head + j[None, :]
    store(to, total, (n < rows)[:, None] & (j < head)[None, :])


@triton.jit
def weight_rows(
    dmatrix,  # (B, N, C)
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    dweight,  # (B, N, C)
    block,
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A block of rows of dweight (B, N, C) = dM A^T, head by head: of A, some rows and columns at a
    time."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    n = block * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    channels = heads * head
    at = image * rows * channels + n[:, None] * channels + h * head
    for first in range(0, head, DEPTH):
        i = first + tl.arange(0, DEPTH)
        score = _scores(gram, squares, temperature, image, h, i, j, heads, head)[0]
        _, most, total = softmax(score)
        found = tl.zeros((ROWS, DEPTH), tl.float32)
        for start in range(0, head, DEPTH):
            some = start + tl.arange(0, DEPTH)
            value = _scores(gram, squares, temperature, image, h, i, some, heads, head)[0]
            value = tl.div_rn(exp(value - most[:, None]), total[:, None])
            m = load(dmatrix + at + some[None, :], (n < rows)[:, None] & (some < head)[None, :])
            found += product(m, tl.trans(value))
        mask = (n < rows)[:, None] & (i < head)[None, :]
        tl.store(dweight + at + i[None, :], found, mask=mask)


@triton.jit
def attention_rows(
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    weight,  # (N, C)
    dmatrix,  # (B, N, C)
    dgram,  # (B, heads, c, c)
    row_slopes,  # (B, C)
    column_slopes,  # (B, row_blocks, C)
    dtemperature,  # (B, row_blocks, heads)
    block,
    row_blocks,
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Of a block of rows of A, where M = W A has the gradient ``dmatrix``: dgram (B, heads, c, c),
    that of q k^T; the rows' part of dtemperature (B, row_blocks, heads); the sums of cosine times
    its gradient, which are minus those of length times its own: row_slopes (B, C), column_slopes
    (B, row_blocks, C)."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    i = block * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    channels = heads * head
    dmatrix += image * rows * channels
    d = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, DEPTH):
        n = start + tl.arange(0, DEPTH)
        at = n[:, None] * channels + h * head
        w = load(weight + at + i[None, :], (n < rows)[:, None] & (i < head)[None, :])
        m = load(dmatrix + at + j[None, :], (n < rows)[:, None] & (j < head)[None, :])
        d += product(tl.trans(w), m)
    score, cosine, q, k = _scores(gram, squares, temperature, image, h, i, j, heads, head)
    value = softmax(score)[0]
    d = value * (d - tl.sum(d * value, axis=1)[:, None])
    part = image * row_blocks + block
    of_rows = tl.where(i < head, tl.sum(d * cosine, axis=1), 0.0)
    tl.store(dtemperature + part * heads + h, tl.sum(of_rows, axis=0))
    by = tl.load(temperature + h)
    d *= by
    tl.store(row_slopes + image * channels + h * head + i, of_rows * by, mask=i < head)
    at = column_slopes + part * channels + h * head + j
    tl.store(at, tl.sum(d * cosine, axis=0), mask=j < head)
    at = dgram + (image * heads + h) * head * head + i[:, None] * head + j[None, :]
    tl.store(at, d / (q[:, None] * k[None, :]), mask=(i < head)[:, None] & (j < head)[None, :])


@triton.jit
def _attention_backward(
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    weight,  # (N, C)
    dmatrix,  # (B, N, C)
    matrix,  # (B, N, C)
    dgram,  # (B, heads, c, c)
    row_slopes,  # (B, C)
    column_slopes,  # (B, row_blocks, C)
    dtemperature,  # (B, row_blocks, heads)
    dweight,  # (B, N, C)
    row_blocks,
    weight_blocks,
    rows,
    heads,
    head,
    ROWS: tl.constexpr,  # of A
    WEIGHT_ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """All that follows from M = W A and its gradient: the first programs have rows of A, then come
    those with rows of dweight, and last those with rows of M itself."""
    block = tl.program_id(0)
    if block < row_blocks:
        attention_rows(
            gram, squares, temperature, weight, dmatrix, dgram, row_slopes, column_slopes,
            dtemperature, block, row_blocks, rows, heads, head, ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
    elif block < row_blocks + weight_blocks:
        weight_rows(
            dmatrix, gram, squares, temperature, dweight, block - row_blocks,
            rows, heads, head, WEIGHT_ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
    else:
        fold_rows(
            weight, gram, squares, temperature, matrix, block - row_blocks - weight_blocks,
            rows, heads, head, WEIGHT_ROWS, COLUMNS, DEPTH,
        )  # fmt: skip


@triton.jit
def _sum_over_images(
    of_weight,  # (B, N C)
    of_bias,  # (B, N)
    of_temperature,  # (parts, heads)
    dweight,  # (N C,)
    dbias,  # (N,)
    dtemperature,  # (heads,)
    images,
    parts,
    weights,  # N C
    biases,  # N
    heads,
    weight_blocks,
    bias_blocks,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Three sums over the first dimension: the first programs have columns of the weight, those
    that follow of the bias, the last of the temperature."""
    block = tl.program_id(0)
    if block < weight_blocks:
        add_columns(of_weight, dweight, block, images, weights, PARTS, COLUMNS)
    elif block < weight_blocks + bias_blocks:
        add_columns(of_bias, dbias, block - weight_blocks, images, biases, PARTS, COLUMNS)
    else:
        block -= weight_blocks + bias_blocks
        add_columns(of_temperature, dtemperature, block, parts, heads, PARTS, COLUMNS)


@triton.jit
def add_columns(
    sums,  # (parts, size)
    out,  # (size,)
    block,
    parts,
    size,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    total = sum_of_parts(sums, c, c < size, parts, size, PARTS, COLUMNS)
    tl.store(out + c, total, mask=c < size)


# --- launches ------------------------------------------------------------------------------------


def columns_of(head: int) -> int:
    """Of a program that sees whole rows of a head's matrix."""
    return max(16, triton.next_power_of_2(head))


def _warps(columns: int) -> int:
    return min(16, max(4, columns // 16))


def _fold_rows(head: int) -> int:
    """Rows of W that a program multiplies with a head's matrix."""
    return min(32, max(16, 2048 // columns_of(head)))


def attention_backward(
    gram: Tensor,
    squares: Tensor,
    temperature: Tensor,
    weight: Tensor,
    dmatrix: Tensor,
    dbias: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """W A in this dtype; the gradient of q k^T, the slopes of q's lengths (B, C) and of k's
    (B, parts, C), and the gradients of temperature, weight and bias. dbias: (B, N), of each
    image."""
    batch, heads, head, _ = gram.shape
    outer, channels = weight.shape
    columns, fold = columns_of(head), _fold_rows(head)
    rows = min(columns, max(16, 2048 // columns))
    row_blocks, weight_blocks = blocks(head, rows), blocks(outer, fold)
    new = weight.new_empty
    matrix = new(dmatrix.shape, dtype=dtype)
    dgram, row_slopes = torch.empty_like(gram), new((batch, channels))
    column_slopes = new((batch, row_blocks, channels))
    of_temperature, of_weight = new((batch * row_blocks, heads)), torch.empty_like(dmatrix)
    _attention_backward[row_blocks + 2 * weight_blocks, heads, batch](
        gram=gram,
        squares=squares,
        temperature=temperature,
        weight=weight,
        dmatrix=dmatrix,
        matrix=matrix,
        dgram=dgram,
        row_slopes=row_slopes,
        column_slopes=column_slopes,
        dtemperature=of_temperature,
        dweight=of_weight,
        row_blocks=row_blocks,
        weight_blocks=weight_blocks,
        rows=outer,
        heads=heads,
        head=head,
        ROWS=rows,
        WEIGHT_ROWS=fold,
        COLUMNS=columns,
        DEPTH=16,
        num_warps=_warps(columns),
    )
    found = new((outer, channels)), new((outer,)), new((heads,))
    weight_blocks, bias_blocks = blocks(outer * channels, 32), blocks(outer, 32)
    _sum_over_images[(weight_blocks + bias_blocks + blocks(heads, 32),)](
        of_weight=of_weight,
        of_bias=dbias,
        of_temperature=of_temperature,
        dweight=found[0],
        dbias=found[1],
        dtemperature=found[2],
        images=batch,
        parts=batch * row_blocks,
        weights=outer * channels,
        biases=outer,
        heads=heads,
        weight_blocks=weight_blocks,
        bias_blocks=bias_blocks,
        PARTS=64,
        COLUMNS=32,
        num_warps=4,
    )
    dweight, dbias, dtemperature = found
    return matrix, dgram, row_slopes, column_slopes, dtemperature, dweight, dbias
