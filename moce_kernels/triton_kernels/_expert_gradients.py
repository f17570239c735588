"""The kernels of grouped_experts, backward: see there for the steps that they are of."""

from __future__ import annotations

import triton
import triton.language as tl

from moce_kernels.triton_kernels._common import (
    expert_shape,
    image_of,
    load,
    places,
    product,
    slot_and_expert,
    slot_at,
    slots_of,
    store,
)
from moce_kernels.triton_kernels._expert_kernels import times


@triton.jit
def project_back(
    a,  # (slots, widest rank, H, W)
    b,  # (slots, 2 * widest rank, H, W)
    out,  # (slots, widest rank, H, W)
    of_a,  # of all experts, (rank, rank) each
    of_b,  # of all experts, (2 * rank, rank) each
    size,
    width,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    BOTH: tl.constexpr,  # else only of a
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = of_a^T a + of_b^T b."""
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, _, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    if tl.program_id(1) * CHANNELS < r:
        first = tl.program_id(0) * PIXELS
        p = tl.arange(0, PIXELS)
        within = (p < size - first)[:, None]
        n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        total = times(
            image_of(a, slot), of_a + squares, 1, r, n, r, r, first, p, within, width,
            FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
        )  # fmt: skip
        if BOTH:
            total += times(
                image_of(b, slot), of_b + 2 * squares, 1, r, n, r, 2 * r, first, p, within, width,
                FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
            )  # fmt: skip
        to = places(image_of(out, slot), first, p, n, width, FLAT)
        store(to, total, within & (n < r)[None, :])


@triton.jit
def modulate_backward(
    a,  # (slots, widest rank, H, W)
    shared,  # (B, dim, H, W)
    x,  # (B, dim, H, W)
    z,  # (slots, widest rank, H, W)
    grad,  # (B, dim, H, W)
    d_attention,  # (slots, widest rank, H, W)
    d_modulation,  # (slots, widest rank, H, W)
    sums,  # (programs of a slot, slots)
    attn_out,  # of all experts, (rank, rank) each
    attn_out_bias,  # (all ranks,)
    mod_proj,  # (all ranks, dim)
    out_proj,  # (all ranks, dim)
    gate,  # (slots,)
    dim,
    size,
    width,
    top_k,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """z = (attn_out a + bias) * SiLU(mod_proj shared), as ``finish`` has it but for the gate.

    The gradient of z is gate * u, where u = out_proj grad. Of it the gradients of both factors'
    projections, and the parts of the gate's gradient, one of each program: sums of u * z before any
    rounding, and, of the last programs of some pixels, of grad * x.
    """
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, rows, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    image = slot // top_k
    first = tl.program_id(0) * PIXELS
    p = tl.arange(0, PIXELS)
    within = (p < size - first)[:, None]
    of_gate = tl.zeros((), tl.float32)
    if tl.program_id(1) == tl.num_programs(1) - 1:
        found = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for block in range(0, dim, CHANNELS):
            c = block + tl.arange(0, CHANNELS)
            mask = within & (c < dim)[None, :]
            g = load(places(image_of(grad, image), first, p, c, width, FLAT), mask)
            found += g * load(places(image_of(x, image), first, p, c, width, FLAT), mask)
        of_gate = tl.sum(found)
    elif tl.program_id(1) * CHANNELS < r:
        n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        attention = times(
            image_of(a, slot), attn_out + squares, r, 1, n, r, r, first, p, within, width,
            FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
        )  # fmt: skip
        attention += load(attn_out_bias + rows + n, n < r)[None, :]
        modulation = times(
            image_of(shared, image), mod_proj + rows * dim, dim, 1, n, r, dim,
            first, p, within, width, FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
        )  # fmt: skip
        sigmoid = tl.sigmoid(modulation)
        silu = modulation * sigmoid
        mask = within & (n < r)[None, :]
        store(places(image_of(z, slot), first, p, n, width, FLAT), attention * silu, mask)
        upstream = times(
            image_of(grad, image), out_proj + rows * dim, dim, 1, n, r, dim,
            first, p, within, width, FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
        )  # fmt: skip
        of_gate = tl.sum(tl.where(mask, upstream * attention * silu, 0.0))
        d = upstream * tl.load(gate + slot)
        to = places(image_of(d_attention, slot), first, p, n, width, FLAT)
        store(to, d * silu, mask)
        to = places(image_of(d_modulation, slot), first, p, n, width, FLAT)
        slope = sigmoid * (1.0 + modulation * (1.0 - sigmoid))
        store(to, d * attention * slope, mask)
    place = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2)
    tl.store(sums + place + slot, of_gate)


@triton.jit
def sum_of_experts(
    a,  # (slots, widest rank, H, W)
    x,  # (B, dim, H, W)
    out,  # (B, dim, H, W)
    weight,  # (all ranks, dim)
    gate,  # (slots,)
    dim,
    size,
    width,
    top_k,
    index,  # (slots,): experts
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    SHORTCUT: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = sum over an image's experts of weight^T a, weight being (rank, dim); plus the gates
    times x if there is a SHORTCUT."""
    image = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * PIXELS
    p = tl.arange(0, PIXELS)
    within = (p < size - first)[:, None]
    n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    gates = 0.0
    for j in range(top_k):
        slot = image * top_k + j
        r, rows, _, _ = expert_shape(tl.load(index + slot).to(tl.int32), RANKS, WINDOWS, 0)
        gates += tl.load(gate + slot)
        total += times(
            image_of(a, slot), weight + rows * dim, 1, dim, n, dim, r, first, p, within, width,
            FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
        )  # fmt: skip
    mask = within & (n < dim)[None, :]
    if SHORTCUT:
        total += gates * load(places(image_of(x, image), first, p, n, width, FLAT), mask)
    store(places(image_of(out, image), first, p, n, width, FLAT), total, mask)


@triton.jit
def tile_of_gradient(
    a,  # (slots, TIMES * widest rank, H, W)
    b,  # (B or slots, dim or widest rank, H, W)
    sums,  # its row of a program's sums
    tile,  # of the matrix
    gate,  # (slots,)
    dim,
    size,
    width,
    top_k,
    column_blocks,
    order,  # (slots,): slots
    offsets,  # (experts + 1,)
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    WIDE: tl.constexpr,  # b is of the slot's image and has dim channels, else of the slot
    TIMES: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of the first of the sums over the pixels of each expert: of a b^T, weights of all
    experts, then, with BIAS, of a."""
    e = tl.program_id(2)
    r, rows, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    height, breadth = TIMES * r, dim if WIDE else r
    row_block, column_block = tile // column_blocks, tile % column_blocks
    if (row_block * ROWS < height) & (column_block * COLUMNS < breadth):
        first, count = slots_of(e, offsets, 0, RANKS)
        n = row_block * ROWS + tl.arange(0, ROWS)
        k = column_block * COLUMNS + tl.arange(0, COLUMNS)
        found = tl.zeros((ROWS, COLUMNS), tl.float32)
        bias_found = tl.zeros((PIXELS, ROWS), tl.float32)  # added up once, after all
        p = tl.arange(0, PIXELS)
        parts = tl.cdiv(size, PIXELS)
        for i in range(tl.program_id(0), count * parts, tl.num_programs(0)):
            slot = slot_at(first + i // parts, order, RANKS)
            start = i % parts * PIXELS
            within = (p < size - start)[:, None]
            at = places(image_of(a, slot), start, p, n, width, FLAT)
            left = tl.load(at, mask=within & (n < height)[None, :], other=0.0)
            of_b = image_of(b, slot // top_k if WIDE else slot)
            at = places(of_b, start, p, k, width, FLAT)
            right = tl.load(at, mask=within & (k < breadth)[None, :], other=0.0)
            here = product(tl.trans(left), right, PRECISION)
            found += here * tl.load(gate + slot) if GATED else here
            if BIAS:
                bias_found += left.to(tl.float32)
        to = sums + (rows * dim if WIDE else TIMES * squares)
        mask = (n < height)[:, None] & (k < breadth)[None, :]
        tl.store(to + n[:, None] * breadth + k[None, :], found, mask=mask)
        # One is a constant, the other a tensor.
        if BIAS:  # noqa: SIM102
            if column_block == 0:
                weights = 0
                for other in tl.static_range(len(RANKS)):
                    weights += TIMES * RANKS[other] * (dim if WIDE else RANKS[other])
                to = sums + weights + TIMES * rows
                tl.store(to + n, tl.sum(bias_found, axis=0), mask=n < height)


@triton.jit
def weight_gradients(
    a0,  # of three weights, as tile_of_gradient takes them
    b0,
    a1,
    b1,
    a2,
    b2,
    sums,  # (splits, sums_b)
    sums_b,
    place0,  # in a row of sums
    place1,
    place2,
    tiles0,  # of the matrix of the widest expert
    tiles1,
    gate,  # (slots,)
    dim,
    size,
    width,
    top_k,
    wide_blocks,  # tiles in a row of a matrix, that is WIDE or not
    column_blocks,
    order,  # (slots,): slots
    offsets,  # (experts + 1,)
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    WIDE: tl.constexpr,  # of each of the three; likewise the next
    TIMES: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradients of three weights: each by itself would leave much of a GPU idle."""
    tile = tl.program_id(1)
    sums += tl.program_id(0).to(tl.int64) * sums_b
    if tile < tiles0:
        tile_of_gradient(
            a0, b0, sums + place0, tile, gate, dim, size, width, top_k,
            wide_blocks if WIDE[0] else column_blocks, order, offsets, RANKS, WINDOWS,
            WIDE[0], TIMES[0], GATED[0], BIAS[0], FLAT, PRECISION, PIXELS, ROWS, COLUMNS,
        )  # fmt: skip
    elif tile < tiles0 + tiles1:
        tile_of_gradient(
            a1, b1, sums + place1, tile - tiles0, gate, dim, size, width, top_k,
            wide_blocks if WIDE[1] else column_blocks, order, offsets, RANKS, WINDOWS,
            WIDE[1], TIMES[1], GATED[1], BIAS[1], FLAT, PRECISION, PIXELS, ROWS, COLUMNS,
        )  # fmt: skip
    else:
        tile_of_gradient(
            a2, b2, sums + place2, tile - tiles0 - tiles1, gate, dim, size, width, top_k,
            wide_blocks if WIDE[2] else column_blocks, order, offsets, RANKS, WINDOWS,
            WIDE[2], TIMES[2], GATED[2], BIAS[2], FLAT, PRECISION, PIXELS, ROWS, COLUMNS,
        )  # fmt: skip
