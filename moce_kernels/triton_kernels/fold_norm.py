"""Triton kernels of fold_norm: W scale, (N, C), and b + W shift, (N,), and the gradients.

Matrices of some thousand numbers: launches and the wait for memory are all that they cost. Forward
reads N C numbers and writes as many; backward reads twice as many and writes N C. A program has
some rows of the matrix forward, and some columns backward, so that its sums are its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import blocks, implement, load, up_to


@triton.jit
def _fold_norm(
    weight,  # (N, C)
    weight_n,  # strides
    weight_c,
    bias,  # (N,) or None
    scale,  # (C,)
    shift,  # (C,)
    folded,  # (N, C)
    out_bias,  # (N,)
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        mask = (n < rows)[:, None] & (c < columns)[None, :]
        w = load(weight + n[:, None] * weight_n + c[None, :] * weight_c, mask)
        found += w * load(shift + c, c < columns)[None, :]
        w *= load(scale + c, c < columns)[None, :]
        tl.store(folded + n[:, None] * columns + c[None, :], w, mask=mask)
    total = tl.sum(found, axis=1)
    if bias is not None:
        total += load(bias + n, n < rows)
    tl.store(out_bias + n, total, mask=n < rows)


@triton.jit
def _fold_norm_backward(
    dfolded,  # (N, C)
    dbias,  # (N,)
    weight,  # (N, C)
    weight_n,  # strides
    weight_c,
    scale,  # (C,)
    shift,  # (C,)
    dweight,  # (N, C)
    dscale,  # (C,)
    dshift,  # (C,)
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    by = load(scale + c, c < columns)[None, :]
    plus = load(shift + c, c < columns)[None, :]
    of_scale = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        mask = (n < rows)[:, None] & (c < columns)[None, :]
        w = load(weight + n[:, None] * weight_n + c[None, :] * weight_c, mask)
        d = load(dfolded + n[:, None] * columns + c[None, :], mask)
        b = load(dbias + n, n < rows)[:, None]
        of_scale += d * w
        of_shift += b * w
        tl.store(dweight + n[:, None] * columns + c[None, :], d * by + b * plus, mask=mask)
    tl.store(dscale + c, tl.sum(of_scale, axis=0), mask=c < columns)
    tl.store(dshift + c, tl.sum(of_shift, axis=0), mask=c < columns)


@implement("fold_norm")
def forward(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    rows, columns = weight.shape
    folded = weight.new_empty((rows, columns), dtype=torch.float32)
    out_bias = folded.new_empty((rows,))
    wide = up_to(128, columns)
    _fold_norm[(blocks(rows, 16),)](
        weight=weight,
        weight_n=weight.stride(0),
        weight_c=weight.stride(1),
        bias=None if bias is None else bias.contiguous(),
        scale=scale.contiguous(),
        shift=shift.contiguous(),
        folded=folded,
        out_bias=out_bias,
        rows=rows,
        columns=columns,
        ROWS=16,
        COLUMNS=wide,
        num_warps=4,
    )
    return folded, out_bias


@implement("fold_norm_backward")
def backward(
    dfolded: Tensor, dbias: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = weight.shape
    new = dfolded.new_empty
    dweight, dscale, dshift = new((rows, columns)), new((columns,)), new((columns,))
    _fold_norm_backward[(blocks(columns, 16),)](
        dfolded=dfolded.contiguous(),
        dbias=dbias.contiguous(),
        weight=weight,
        weight_n=weight.stride(0),
        weight_c=weight.stride(1),
        scale=scale.contiguous(),
        shift=shift.contiguous(),
        dweight=dweight,
        dscale=dscale,
        dshift=dshift,
        rows=rows,
        columns=columns,
        ROWS=up_to(128, rows),
        COLUMNS=16,
        num_warps=4,
    )
    return dweight, dscale, dshift
