"""The heads' matrices of channel_attention, between its passes over the pixels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import blocks, exp, load, product, store


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
    """Of rows i and columns j of a head's matrix: the cosines times the temperature, the cosines,
    the lengths of q's and k's channels."""
    mask = (i < head)[:, None] & (j < head)[None, :]
    matrix = (image * heads + h) * head * head
    dots = load(gram + matrix + i[:, None] * head + j[None, :], mask)
    at = squares + (image * 2 * heads + h) * head
    q = tl.maximum(tl.sqrt_rn(load(at + i, i < head)), 1e-12)
    k = tl.maximum(tl.sqrt_rn(load(at + heads * head + j, j < head)), 1e-12)
    cosine = tl.div_rn(dots, q[:, None] * k[None, :])
    score = tl.where((j < head)[None, :], cosine * tl.load(temperature + h), float("-inf"))
    return score, cosine, q, k


@triton.jit
def _softmax(score):
    """A, of whole rows; the largest of each row and the sum that it is divided by."""
    most = tl.max(score, axis=1)
    score = exp(score - most[:, None])
    total = tl.sum(score, axis=1)
    return tl.div_rn(score, total[:, None]), most, total


@triton.jit
def _fold(
    weight,  # (N, C)
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    out,  # (B, N, C)
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out (B, N, C) = W A, head by head: (N, c) times (c, c). Each program makes the few rows of A
    that it needs."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    channels = heads * head
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, head, DEPTH):
        i = start + tl.arange(0, DEPTH)
        score = _scores(gram, squares, temperature, image, h, i, j, heads, head)[0]
        value = _softmax(score)[0]
        at = weight + n[:, None] * channels + h * head + i[None, :]
        # Rows beyond the last of A are not zero, but these weights are.
        total += product(load(at, (n < rows)[:, None] & (i < head)[None, :]), value)
    to = out + image * rows * channels + n[:, None] * channels + h * head + j[None, :]
    store(to, total, (n < rows)[:, None] & (j < head)[None, :])


@triton.jit
def _fold_backward(
    dmatrix,  # (B, N, C)
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    dweight,  # (B, N, C)
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """dweight (B, N, C) = dM A^T, head by head: of A, some rows and columns at a time."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    channels = heads * head
    at = image * rows * channels + n[:, None] * channels + h * head
    for first in range(0, head, DEPTH):
        i = first + tl.arange(0, DEPTH)
        score = _scores(gram, squares, temperature, image, h, i, j, heads, head)[0]
        _, most, total = _softmax(score)
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
def _attention_backward(
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    weight,  # (N, C)
    dmatrix,  # (B, N, C)
    dgram,  # (B, heads, c, c)
    row_slopes,  # (B, C)
    column_slopes,  # (B, blocks of rows, C)
    dtemperature,  # (B, blocks of rows, heads)
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Where M = W A has the gradient ``dmatrix``: dgram (B, heads, c, c), that of q k^T; the rows'
    part of dtemperature (B, blocks of rows, heads); the sums of cosine times its gradient, which
    are minus those of length times its own: row_slopes (B, C), column_slopes (B, blocks of rows,
    C)."""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
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
    value = _softmax(score)[0]
    d = value * (d - tl.sum(d * value, axis=1)[:, None])
    part = image * tl.num_programs(0) + tl.program_id(0)
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
    """A block of columns of the sums over the first dimension, in a fixed order."""
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    found = tl.zeros((PARTS, COLUMNS), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        at = sums + part.to(tl.int64)[:, None] * size + c[None, :]
        found += load(at, (part < parts)[:, None] & (c < size)[None, :])
    tl.store(out + c, tl.sum(found, axis=0), mask=c < size)


# --- launches ------------------------------------------------------------------------------------


def _rows(head: int) -> tuple[int, int, int]:
    """Rows and columns of a program that sees whole rows of a head's matrix, and its warps."""
    columns = max(16, triton.next_power_of_2(head))
    rows = min(columns, max(16, 2048 // columns))
    return rows, columns, 4 if rows * columns <= 4096 else 8


def folded(
    weight: Tensor, gram: Tensor, squares: Tensor, temperature: Tensor, dtype: torch.dtype
) -> Tensor:
    """W A (B, N, C) in this dtype, head by head, of W (N, C). A is the softmax of the cosines times
    the temperature."""
    batch, heads, head, _ = gram.shape
    outer, channels = weight.shape
    _, columns, _ = _rows(head)
    rows = min(32, max(16, 2048 // columns))
    out = weight.new_empty((batch, outer, channels), dtype=dtype)
    _fold[blocks(outer, rows), heads, batch](
        weight=weight,
        gram=gram,
        squares=squares,
        temperature=temperature,
        out=out,
        rows=outer,
        heads=heads,
        head=head,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=16,
        num_warps=min(16, max(4, columns // 16)),
    )
    return out


def attention_backward(
    gram: Tensor,
    squares: Tensor,
    temperature: Tensor,
    weight: Tensor,
    dmatrix: Tensor,
    dbias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradient of q k^T, the slopes of q's lengths (B, C) and of k's (B, parts, C), and the
    gradients of temperature, weight and bias. dbias: (B, N), of each image."""
    batch, heads, head, _ = gram.shape
    outer, channels = weight.shape
    rows, columns, warps = _rows(head)
    row_blocks = blocks(head, rows)
    new = weight.new_empty
    dgram, row_slopes = torch.empty_like(gram), new((batch, channels))
    column_slopes = new((batch, row_blocks, channels))
    of_temperature, of_weight = new((batch * row_blocks, heads)), torch.empty_like(dmatrix)
    _attention_backward[row_blocks, heads, batch](
        gram=gram,
        squares=squares,
        temperature=temperature,
        weight=weight,
        dmatrix=dmatrix,
        dgram=dgram,
        row_slopes=row_slopes,
        column_slopes=column_slopes,
        dtemperature=of_temperature,
        rows=outer,
        heads=heads,
        head=head,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=16,
        num_warps=warps,
    )
    _fold_backward[blocks(outer, 32), heads, batch](
        dmatrix=dmatrix,
        gram=gram,
        squares=squares,
        temperature=temperature,
        dweight=of_weight,
        rows=outer,
        heads=heads,
        head=head,
        ROWS=32,
        COLUMNS=columns,
        DEPTH=16,
        num_warps=min(16, max(4, columns // 16)),
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
    return dgram, row_slopes, column_slopes, dtemperature, dweight, dbias
