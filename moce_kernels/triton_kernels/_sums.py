"""Sums of what programs found, each of a part: float32, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import blocks, load


@triton.jit
def sum_of_parts(
    sums,  # (parts, stride)
    c,
    inside,
    parts,
    stride,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Columns c, where they are inside, of the sums over the first dimension, in a fixed order."""
    part = tl.arange(0, PARTS)
    offsets = part[:, None] * stride + c[None, :]
    found = tl.zeros((PARTS, COLUMNS), tl.float32)
    for start in range(0, parts, PARTS):
        found += load(sums + offsets, (part < parts - start)[:, None] & inside[None, :])
        sums += PARTS * stride
    return tl.sum(found, axis=0)


@triton.jit
def _add_up(
    sums,  # (groups, parts, size)
    out,  # (groups, count)
    other,  # (groups, size - count)
    parts,
    size,
    count,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    group = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = sum_of_parts(sums + group * parts * size, c, c < size, parts, size, PARTS, COLUMNS)
    tl.store(out + group * count + c, total, mask=c < count)
    tl.store(other + group * (size - count) + (c - count), total, mask=(c >= count) & (c < size))


def add_up(sums: Tensor, shape: Sequence[int], other_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The sums over dimension 1 of sums (groups, parts, size), in a fixed order: what comes first
    in this shape, what follows in the other."""
    groups, parts, size = sums.shape
    out, other = sums.new_empty(shape), sums.new_empty(other_shape)
    # Many parts at a time, since each turn of the loop waits for memory.
    rows, warps = (64, 4) if parts <= 64 else (256, 8)
    _add_up[blocks(size, 32), groups](
        sums=sums,
        out=out,
        other=other,
        parts=parts,
        size=size,
        count=out.numel() // groups,
        PARTS=rows,
        COLUMNS=32,
        num_warps=warps,
    )
    return out, other


class Partial(NamedTuple):
    """Sums (parts, size) of a matrix's rows that are to be added up."""

    data: Any
    parts: Any
    size: Any


@triton.jit
def _columns_of(partial, out, block, PARTS: tl.constexpr, COLUMNS: tl.constexpr):
    if (block >= 0) & (block * COLUMNS < partial.size):
        c = block * COLUMNS + tl.arange(0, COLUMNS)
        inside = c < partial.size
        total = sum_of_parts(partial.data, c, inside, partial.parts, partial.size, PARTS, COLUMNS)
        tl.store(out + c, total, mask=inside)


@triton.jit
def _add_up_five(s0, s1, s2, s3, s4, out, PARTS: tl.constexpr, COLUMNS: tl.constexpr):
    """out: the sums of each ``Partial``, one after the other."""
    block = tl.program_id(0)
    _columns_of(s0, out, block, PARTS, COLUMNS)
    block -= tl.cdiv(s0.size, COLUMNS)
    out += s0.size
    _columns_of(s1, out, block, PARTS, COLUMNS)
    block -= tl.cdiv(s1.size, COLUMNS)
    out += s1.size
    _columns_of(s2, out, block, PARTS, COLUMNS)
    block -= tl.cdiv(s2.size, COLUMNS)
    out += s2.size
    _columns_of(s3, out, block, PARTS, COLUMNS)
    block -= tl.cdiv(s3.size, COLUMNS)
    out += s3.size
    _columns_of(s4, out, block, PARTS, COLUMNS)


def add_up_five(*sums: Tensor) -> tuple[Tensor, ...]:
    """Of five matrices (parts, size), the sums of their rows, (size,) each, in one launch."""
    sizes = [one.shape[1] for one in sums]
    out = sums[0].new_empty((sum(sizes),))
    s0, s1, s2, s3, s4 = (Partial(one, *one.shape) for one in sums)
    _add_up_five[(sum(blocks(size, 32) for size in sizes),)](
        s0=s0, s1=s1, s2=s2, s3=s3, s4=s4, out=out, PARTS=64, COLUMNS=32, num_warps=4
    )
    return out.split(sizes)
