"""Triton kernels of pointwise_conv: out = W n(x) + b + residual, and its gradients.

n is the identity or the normalisation over channels; LayerNorm's own scale and shift are in W and b
already. A program computes a tile of pixels times output channels. Up to 128 channels it loads x
once, normalises it in registers and multiplies; more it takes some at a time, after a walk for mean
and deviation, which leaves them in the cache. Bias and residual are added before the one store.
Programs of the same pixels follow each other, so that memory is asked for x once: C + N elements
are moved for each pixel and N more with a residual, and 2 C N float operations done. 16-bit
activations are multiplied on tensor cores, and bound by memory up to about 300 channels (H100). So
is float32, in three products of TF32 each, or in one where PyTorch's own setting allows it.

The gradient of n(x) is the same product with the transposed matrix. Where all channels fit one
program it turns that into the gradient of x before it stores it: N + 2 C elements. Else a second
kernel does, in place: 2 C more. Either leaves the statistics of x's norm for the gradients of W and
b, a product over all pixels (N + C elements): programs share the runs of pixels of a tile of W, in
float32 and in a fixed order; what they found is added up after.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels._channel_norm import (
    keep_statistics,
    moments,
    new_statistics,
    norm_backward,
    norm_statistics,
    normalise,
    normalise_gradient,
)
from moce_kernels.triton_kernels._common import (
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
    rounded,
    splits,
    store,
    strided,
    up_to,
)
from moce_kernels.triton_kernels._sums import add_up

PROGRAMS = 528  # that share a sum over pixels: four for each of an H100's multiprocessors
WHOLE = 128  # channels that a program can see at once beside their product


class Matrix(NamedTuple):
    """A matrix (N, C) for each image as the kernels take it: its first element, and strides in
    elements; b is 0 where all images have the same."""

    data: Any
    b: Any
    n: Any
    k: Any


@triton.jit
def _pointwise_conv(
    x,  # (B, C, H, W)
    residual,  # (B, N, H, W)
    normalised,  # (B, N, H, W)
    out,  # (B, N, H, W)
    statistics,  # (B, 2, H W) of `normalised`, written with its gradient
    weight,  # Matrix, (N, C) or (B, N, C)
    bias,  # (N,) or None
    eps,
    go_in,
    come_out,
    size,
    width,
    channel_blocks,
    NORM: tl.constexpr,  # x is normalised
    RESIDUAL: tl.constexpr,  # `residual` is added
    # The result is the gradient of what `normalised` is normalised to, whose own is wanted; all its
    # channels are in one program.
    NORM_GRADIENT: tl.constexpr,
    WHOLE: tl.constexpr,  # x is loaded once: DEPTH is all of its channels
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) // channel_blocks * PIXELS
    p = tl.arange(0, PIXELS)
    n = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    x = image_of(x, image)
    matrix = weight.data + image * weight.b
    inside, wanted = (p < size - first)[:, None], (n < come_out)[None, :]
    mask = inside & wanted
    if RESIDUAL or NORM_GRADIENT:  # loaded with the rest, so that memory is waited for once
        beside = image_of(normalised if NORM_GRADIENT else residual, image)
        beside = places(beside, first, p, n, width, FLAT)
        value = tl.load(beside, mask=mask, other=0.0)
    if WHOLE:
        k = tl.arange(0, DEPTH)
        exists = (k < go_in)[None, :]
        at = places(x, first, p, k, width, FLAT)
        a = tl.load(at, mask=inside & exists, other=0.0)
        at = matrix + k[:, None] * weight.k + n[None, :] * weight.n
        w = tl.load(at, mask=(k < go_in)[:, None] & wanted, other=0.0)
        if NORM:
            a, _ = normalise(a.to(tl.float32), exists, go_in, eps)
            a = rounded(a, x.data.dtype.element_ty)
        total = product(a, w, PRECISION)
    else:
        if NORM:
            mean, scale = moments(x, first, p, inside, go_in, width, eps, FLAT, PIXELS, DEPTH)
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for start in range(0, go_in, DEPTH):
            k = start + tl.arange(0, DEPTH)
            at = places(x, first, p, k, width, FLAT)
            a = tl.load(at, mask=inside & (k < go_in)[None, :], other=0.0)
            if NORM:
                a = rounded(
                    (a.to(tl.float32) - mean[:, None]) * scale[:, None], x.data.dtype.element_ty
                )
            at = matrix + k[:, None] * weight.k + n[None, :] * weight.n
            w = tl.load(at, mask=(k < go_in)[:, None] & wanted, other=0.0)
            total += product(a, w, PRECISION)
    if bias is not None:
        total += load(bias + n, n < come_out)[None, :]
    if NORM_GRADIENT:
        value = value.to(tl.float32)
        normed, scale = normalise(value, wanted, come_out, eps)
        keep_statistics(statistics, image, first, p, size, value, scale, come_out)
        total = normalise_gradient(total, normed, scale, come_out)
        if RESIDUAL:
            total += load(places(image_of(residual, image), first, p, n, width, FLAT), mask)
    elif RESIDUAL:
        total += value.to(tl.float32)
    store(places(image_of(out, image), first, p, n, width, FLAT), total, mask)


@triton.jit
def _weight_gradient(
    grad,  # (B, N, H, W)
    x,  # (B, C, H, W)
    statistics,  # (B, 2, H W)
    sums,  # (groups, splits, N C + N)
    rows,
    columns,
    size,
    width,
    images,  # of a group
    column_blocks,
    NORM: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """sums (groups, splits, rows columns + rows) over the images of a group: of grad n(x)^T, then
    of grad."""
    n = tl.program_id(1) // column_blocks * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    bias_found = tl.zeros((PIXELS, ROWS), tl.float32)  # added up once, after all
    p = tl.arange(0, PIXELS)
    parts = tl.cdiv(size, PIXELS)
    for i in range(tl.program_id(0), images * parts, tl.num_programs(0)):
        image = (tl.program_id(2) * images + i // parts).to(tl.int64)
        first = i % parts * PIXELS
        inside = p < size - first
        at = places(image_of(grad, image), first, p, n, width, FLAT)
        left = tl.load(at, mask=inside[:, None] & (n < rows)[None, :], other=0.0)
        at = places(image_of(x, image), first, p, k, width, FLAT)
        right = tl.load(at, mask=inside[:, None] & (k < columns)[None, :], other=0.0)
        if NORM:
            at = statistics + image * 2 * size + first + p
            mean, scale = load(at, inside)[:, None], load(at + size, inside)[:, None]
            right = rounded((right.to(tl.float32) - mean) * scale, x.data.dtype.element_ty)
        found += product(tl.trans(left), right, PRECISION)
        bias_found += left.to(tl.float32)
    part = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    sums += part * rows * (columns + 1)
    at = sums + n[:, None] * columns + k[None, :]
    tl.store(at, found, mask=(n < rows)[:, None] & (k < columns)[None, :])
    if tl.program_id(1) % column_blocks == 0:
        tl.store(sums + rows * columns + n, tl.sum(bias_found, axis=0), mask=n < rows)


# --- launches ------------------------------------------------------------------------------------


def _tile(dtype: torch.dtype, go_in: int, come_out: int) -> tuple[int, int, int, int]:
    """Pixels, channels that come out, channels that go in at a time, and warps of a program."""
    if dtype == torch.float32:
        # No sum of a program's products is of more than 64: see product().
        generation = compute_capability() // 10
        warps = 4 if generation == 9 else 8  # but on Hopper 4 spill
        if go_in > (32 if generation == 8 else 64):  # on Ampere 64 at once spill
            return 64, up_to(64, come_out), 32, warps
        return 64, up_to(128, come_out), up_to(64, go_in), warps
    if go_in > WHOLE:
        return 64, up_to(128, come_out), 64, 4
    # x is read for every block of channels that come out: one, where that wastes little.
    wide = up_to(256 if come_out <= 256 or come_out % 256 == 0 else 128, come_out)
    depth = up_to(WHOLE, go_in)
    warps = 8 if wide * depth > 128 * 128 or (wide == 256 and compute_capability() >= 100) else 4
    return 64, wide, depth, warps


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    residual: Tensor | None = None,
    norm: bool = False,
    normalised: Tensor | None = None,
    statistics: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """out = weight n(x) + bias + residual with a matrix (N, C), or one for each image, (B, N, C),
    of any strides; n normalises if ``norm``. With ``normalised``, of at most ``WHOLE`` channels,
    the product is taken for the gradient of n(normalised), and out is that of ``normalised`` plus
    the residual; then ``statistics`` are written."""
    batch, go_in, height, width = x.shape
    come_out, size = out.shape[1], height * width
    block, wide, depth, warps = _tile(x.dtype, go_in, come_out)
    if normalised is not None:
        wide = up_to(WHOLE, come_out)
        warps = 8 if wide == WHOLE else warps
    block = pixel_block(block, size)
    stages = 2 if x.dtype == torch.float32 and compute_capability() < 90 else 3  # 3 spill there
    weight = weight.to(x.dtype)
    strides = weight.stride() if weight.dim() == 3 else (0, *weight.stride())
    channel_blocks = blocks(come_out, wide)
    _pointwise_conv[blocks(size, block) * channel_blocks, batch](
        x=strided(x),
        residual=strided(out if residual is None else residual),
        normalised=strided(out if normalised is None else normalised),
        out=strided(out),
        statistics=statistics,
        weight=Matrix(weight, *strides),
        bias=bias,
        eps=eps,
        go_in=go_in,
        come_out=come_out,
        size=size,
        width=width,
        channel_blocks=channel_blocks,
        NORM=norm,
        RESIDUAL=residual is not None,
        NORM_GRADIENT=normalised is not None,
        WHOLE=go_in <= depth,
        FLAT=flat(*(t for t in (x, out, residual, normalised) if t is not None)),
        PRECISION=float32_precision(),
        PIXELS=block,
        CHANNELS=wide,
        DEPTH=depth,
        num_warps=warps,
        num_stages=stages,
    )


def pointwise_backward_weight(
    grad: Tensor, x: Tensor, statistics: Tensor | None = None, each_image: bool = False
) -> tuple[Tensor, Tensor]:
    """The gradients of a matrix (N, C) and a bias (N,), or of one for each image, from which the
    gradient of a softmax will be taken. x is normalised with ``statistics``, if given."""
    batch, columns, height, width = x.shape
    rows, size = grad.shape[1], height * width
    groups, images = (batch, 1) if each_image else (1, batch)
    row_block, column_block = up_to(64, rows), up_to(64, columns)
    precision = float32_precision(sensitive=each_image)
    if x.dtype != torch.float32:
        count, warps = 64, 4
    else:
        count = 16 if precision == "ieee" else 32
        warps = 4 if count == 32 and compute_capability() // 10 == 9 else 8  # 4 spill elsewhere
    block = pixel_block(count, size)
    tiles = blocks(rows, row_block) * blocks(columns, column_block)
    parts = splits(images * blocks(size, block), max(1, PROGRAMS // (tiles * groups)))
    sums = x.new_empty((groups, parts, rows * (columns + 1)), dtype=torch.float32)
    _weight_gradient[parts, tiles, groups](
        grad=strided(grad),
        x=strided(x),
        statistics=statistics,
        sums=sums,
        rows=rows,
        columns=columns,
        size=size,
        width=width,
        images=images,
        column_blocks=blocks(columns, column_block),
        NORM=statistics is not None,
        FLAT=flat(grad, x),
        PRECISION=precision,
        PIXELS=block,
        ROWS=row_block,
        COLUMNS=column_block,
        num_warps=warps,
    )
    leading = (groups,) if each_image else ()
    return add_up(sums, (*leading, rows, columns), (*leading, rows))


# --- the operator --------------------------------------------------------------------------------


@implement("pointwise_conv")
def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: bool,
    eps: float,
) -> Tensor:
    out = new_like(x, weight.shape[0])
    if out.numel():
        pointwise(x, weight, bias, out, residual=residual, norm=norm, eps=eps)
    return out


@implement("pointwise_conv_backward")
def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    plus: Tensor | None,
    norm: bool,
    eps: float,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    new = functools.partial(weight.new_empty, dtype=torch.float32)
    dx = new_like(x) if needs_x else new((0,))
    dweight, dbias = new((0, weight.shape[1])), new((0,))
    if x.numel() == 0:
        if needs_weight:
            dweight, dbias = new(weight.shape).zero_(), new(weight.shape[:1]).zero_()
        return dx, dweight, dbias
    statistics = new_statistics(x) if norm else None
    if needs_x:
        transposed = weight.t()
        if statistics is None:
            pointwise(grad, transposed, None, dx, residual=plus)
        elif x.shape[1] <= WHOLE:
            pointwise(
                grad,
                transposed,
                None,
                dx,
                residual=plus,
                normalised=x,
                statistics=statistics,
                eps=eps,
            )
        else:
            pointwise(grad, transposed, None, dx)
            norm_backward(dx, x, plus, statistics, eps)
    elif statistics is not None:
        norm_statistics(x, statistics, eps)
    if needs_weight:
        dweight, dbias = pointwise_backward_weight(grad, x, statistics)
    return dx, dweight, dbias
