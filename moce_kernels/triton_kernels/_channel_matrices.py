"""The heads' matrices of channel_attention, between its passes over the pixels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import blocks, exp, load, product, store


@triton.jit
def _softmax(
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
    """Rows i of a head's matrix: A, the cosines that it is the softmax of, the lengths of q's and
    k's channels."""
    mask = (i < head)[:, None] & (j < head)[None, :]
    matrix = (image * heads + h) * head * head
    dots = load(gram + matrix + i[:, None] * head + j[None, :], mask)
    at = squares + (image * 2 * heads + h) * head
    q = tl.maximum(tl.sqrt_rn(load(at + i, i < head)), 1e-12)
    k = tl.maximum(tl.sqrt_rn(load(at + heads * head + j, j < head)), 1e-12)
    cosine = tl.div_rn(dots, q[:, None] * k[None, :])
    score = tl.where((j < head)[None, :], cosine * tl.load(temperature + h), float("-inf"))
    score = exp(score - tl.max(score, axis=1)[:, None])
    return tl.div_rn(score, tl.sum(score, axis=1)[:, None]), cosine, q, k


@triton.jit
def _attention(
    gram,  # (B, heads, c, c)
    squares,  # (B, 2, C)
    temperature,  # (heads,)
    attention,  # (B, heads, c, c)
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """attention (B, heads, c, c)"""
    image, h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    value, _, _, _ = _softmax(gram, squares, temperature, image, h, i, j, heads, head)
    at = attention + (image * heads + h) * head * head + i[:, None] * head + j[None, :]
    tl.store(at, value, mask=(i < head)[:, None] & (j < head)[None, :])


@triton.jit
def _fold(
    left,  # (N, C), or (B, N, C)
    left_b,
    right,  # (B, heads, c, c)
    right_i,  # strides of the last two
    right_j,
    out,  # (B, N, C)
    rows,
    heads,
    head,
    column_blocks,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out (B, N, C): head by head, left (N, c) times right (c, c)."""
    h, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) // column_blocks * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(0) % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    channels = heads * head
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, head, DEPTH):
        i = start + tl.arange(0, DEPTH)
        at = left + image * left_b + n[:, None] * channels + h * head + i[None, :]
        a = load(at, (n < rows)[:, None] & (i < head)[None, :])
        at = right + (image * heads + h) * head * head
        at += i[:, None] * right_i + j[None, :] * right_j
        total += product(a, load(at, (i < head)[:, None] & (j < head)[None, :]))
    to = out + image * rows * channels + n[:, None] * channels + h * head + j[None, :]
    store(to, total, (n < rows)[:, None] & (j < head)[None, :])


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
    dtemperature,  # (B, C)
    rows,
    heads,
    head,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """dgram (B, heads, c, c), the gradient of q k^T where M = W A has that of ``dmatrix``;
    dtemperature (B, C), a row's part; the sums of cosine times its gradient, which are minus those
    of length times its own: row_slopes (B, C), column_slopes (B, blocks of rows, C)."""
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
    value, cosine, q, k = _softmax(gram, squares, temperature, image, h, i, j, heads, head)
    d = value * (d - tl.sum(d * value, axis=1)[:, None])
    of_row = image * channels + h * head + i
    tl.store(dtemperature + of_row, tl.sum(d * cosine, axis=1), mask=i < head)
    d *= tl.load(temperature + h)
    tl.store(row_slopes + of_row, tl.sum(d * cosine, axis=1), mask=i < head)
    at = column_slopes + (image * tl.num_programs(0) + tl.program_id(0)) * channels + h * head + j
    tl.store(at, tl.sum(d * cosine, axis=0), mask=j < head)
    at = dgram + (image * heads + h) * head * head + i[:, None] * head + j[None, :]
    tl.store(at, d / (q[:, None] * k[None, :]), mask=(i < head)[:, None] & (j < head)[None, :])


# --- launches ------------------------------------------------------------------------------------


def _rows(head: int) -> tuple[int, int, int]:
    """Rows and columns of a program that sees whole rows of a head's matrix, and its warps."""
    columns = max(16, triton.next_power_of_2(head))
    rows = min(columns, max(16, 2048 // columns))
    return rows, columns, 4 if rows * columns <= 4096 else 8


def attention_of(gram: Tensor, squares: Tensor, temperature: Tensor) -> Tensor:
    """A (B, heads, c, c): the softmax of the cosines times the temperature."""
    batch, heads, head, _ = gram.shape
    rows, columns, warps = _rows(head)
    attention = torch.empty_like(gram)
    _attention[blocks(head, rows), heads, batch](
        gram=gram,
        squares=squares,
        temperature=temperature,
        attention=attention,
        heads=heads,
        head=head,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=warps,
    )
    return attention


def folded(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """out (B, N, C): left, (N, C) or (B, N, C), times right (B, heads, c, c), head by head."""
    _, heads, head, _ = right.shape
    batch, rows, _ = out.shape
    column_blocks = blocks(head, 32)
    _fold[blocks(rows, 32) * column_blocks, heads, batch](
        left=left,
        left_b=left.stride(0) if left.dim() == 3 else 0,
        right=right,
        right_i=right.stride(2),
        right_j=right.stride(3),
        out=out,
        rows=rows,
        heads=heads,
        head=head,
        column_blocks=column_blocks,
        ROWS=32,
        COLUMNS=32,
        DEPTH=16,
        num_warps=4,
    )
    return out


def attention_backward(
    gram: Tensor, squares: Tensor, temperature: Tensor, weight: Tensor, dmatrix: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of q k^T, the slopes of q's and of k's lengths (B, C) each, and the gradient of
    the temperature."""
    batch, heads, head, _ = gram.shape
    outer, channels = weight.shape
    rows, columns, warps = _rows(head)
    row_blocks = blocks(head, rows)
    dgram, row_slopes = torch.empty_like(gram), weight.new_empty((batch, channels))
    dtemperature = weight.new_empty((batch, heads, head))
    column_slopes = weight.new_empty((batch, row_blocks, channels))
    _attention_backward[row_blocks, heads, batch](
        gram=gram,
        squares=squares,
        temperature=temperature,
        weight=weight,
        dmatrix=dmatrix,
        dgram=dgram,
        row_slopes=row_slopes,
        column_slopes=column_slopes,
        dtemperature=dtemperature,
        rows=outer,
        heads=heads,
        head=head,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=16,
        num_warps=warps,
    )
    return dgram, row_slopes, column_slopes.sum(dim=1), dtemperature.sum(dim=(0, 2))
