"""The kernels of grouped_experts: see there for the steps that they are of."""

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


@triton.jit
def linear(
    x,  # (B or slots, dim or widest rank, H, W)
    out,  # (slots, TIMES * widest rank, H, W)
    weight,  # of all experts, (TIMES * rank, dim or rank) each
    dim,
    size,
    width,
    top_k,
    index,  # (slots,): experts
    order,  # (slots,): slots
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    WIDE: tl.constexpr,  # dim to rank, of the slot's image; else between ranks, of the slot
    TIMES: tl.constexpr,  # channels on the weight's side of rows for each of the rank
    TRANSPOSED: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out (+)= weight x, weight being (TIMES rank, dim or rank), or its transpose."""
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, rows, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    if WIDE:
        go_in, come_out = dim, r
        weight += rows * dim
        x = image_of(x, slot // top_k)
    else:
        go_in, come_out = (TIMES * r, r) if TRANSPOSED else (r, TIMES * r)
        weight += TIMES * squares
        x = image_of(x, slot)
    columns = dim if WIDE else r
    if tl.program_id(1) * CHANNELS < come_out:
        first = tl.program_id(0) * PIXELS
        p = tl.arange(0, PIXELS)
        within = (p < size - first)[:, None]
        n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for start in range(0, go_in, DEPTH):
            k = start + tl.arange(0, DEPTH)
            inside = within & (k < go_in)[None, :]
            a = tl.load(places(x, first, p, k, width, FLAT), mask=inside, other=0.0)
            if TRANSPOSED:
                at = k[:, None] * columns + n[None, :]
            else:
                at = n[None, :] * columns + k[:, None]
            w = load(weight + at, (k < go_in)[:, None] & (n < come_out)[None, :])
            total += product(a, w, PRECISION)
        mask = within & (n < come_out)[None, :]
        to = places(image_of(out, slot), first, p, n, width, FLAT)
        if ACCUMULATE:
            total += load(to, mask)
        store(to, total, mask)


@triton.jit
def modulate(
    a,  # (slots, widest rank, H, W)
    shared,  # (B, dim, H, W)
    z,  # (slots, widest rank, H, W)
    grad,  # (B, dim, H, W)
    d_attention,  # (slots, widest rank, H, W)
    d_modulation,  # (slots, widest rank, H, W)
    sums,  # (slots, sums_b)
    sums_b,
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
    BACKWARD: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """z = (attn_out a + bias) * SiLU(mod_proj shared).

    Backward, where the gradient of z is gate * u and u = out_proj grad: also the gradients of both
    factors' projections, and sums (slots, sums_b), a program's sum of u * z, before any rounding.
    """
    place = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    slot, e = slot_and_expert(tl.program_id(2), index, order, RANKS)
    r, rows, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    if tl.program_id(1) * CHANNELS < r:
        first = tl.program_id(0) * PIXELS
        p = tl.arange(0, PIXELS)
        within = (p < size - first)[:, None]
        n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        attention = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for start in range(0, r, DEPTH):
            k = start + tl.arange(0, DEPTH)
            at = places(image_of(a, slot), first, p, k, width, FLAT)
            given = tl.load(at, mask=within & (k < r)[None, :], other=0.0)
            at = attn_out + squares + n[None, :] * r + k[:, None]
            attention += product(given, load(at, (k < r)[:, None] & (n < r)[None, :]), PRECISION)
        attention += load(attn_out_bias + rows + n, n < r)[None, :]
        modulation = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for start in range(0, dim, DEPTH):
            k = start + tl.arange(0, DEPTH)
            at = places(image_of(shared, slot // top_k), first, p, k, width, FLAT)
            given = tl.load(at, mask=within & (k < dim)[None, :], other=0.0)
            at = mod_proj + (rows + n)[None, :] * dim + k[:, None]
            modulation += product(given, load(at, (k < dim)[:, None] & (n < r)[None, :]), PRECISION)
        sigmoid = tl.sigmoid(modulation)
        silu = modulation * sigmoid
        mask = within & (n < r)[None, :]
        store(places(image_of(z, slot), first, p, n, width, FLAT), attention * silu, mask)
        if BACKWARD:
            upstream = tl.zeros((PIXELS, CHANNELS), tl.float32)
            for start in range(0, dim, DEPTH):
                k = start + tl.arange(0, DEPTH)
                at = places(image_of(grad, slot // top_k), first, p, k, width, FLAT)
                given = tl.load(at, mask=within & (k < dim)[None, :], other=0.0)
                at = out_proj + (rows + n)[None, :] * dim + k[:, None]
                found = load(at, (k < dim)[:, None] & (n < r)[None, :])
                upstream += product(given, found, PRECISION)
            found = tl.where(mask, upstream * attention * silu, 0.0)
            tl.store(sums + slot * sums_b + place, tl.sum(found))
            d = upstream * tl.load(gate + slot)
            to = places(image_of(d_attention, slot), first, p, n, width, FLAT)
            store(to, d * silu, mask)
            to = places(image_of(d_modulation, slot), first, p, n, width, FLAT)
            slope = sigmoid * (1.0 + modulation * (1.0 - sigmoid))
            store(to, d * attention * slope, mask)
    elif BACKWARD:
        tl.store(sums + slot * sums_b + place, 0.0)


@triton.jit
def project_out(
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
    GATED: tl.constexpr,
    SHORTCUT: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = sum over an image's experts of weight^T a, times the gate if GATED, weight being
    (rank, dim); plus the gates times x if there is a SHORTCUT."""
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
        found = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for start in range(0, r, DEPTH):
            k = start + tl.arange(0, DEPTH)
            at = places(image_of(a, slot), first, p, k, width, FLAT)
            given = tl.load(at, mask=within & (k < r)[None, :], other=0.0)
            at = weight + (rows + k)[:, None] * dim + n[None, :]
            found += product(given, load(at, (k < r)[:, None] & (n < dim)[None, :]), PRECISION)
        value = tl.load(gate + slot)
        gates += value
        total += found * value if GATED else found
    mask = within & (n < dim)[None, :]
    if SHORTCUT:
        total += gates * load(places(image_of(x, image), first, p, n, width, FLAT), mask)
    store(places(image_of(out, image), first, p, n, width, FLAT), total, mask)


@triton.jit
def weight_gradient(
    a,  # (slots, TIMES * widest rank, H, W)
    b,  # (B or slots, dim or widest rank, H, W)
    sums,  # (splits, total + bias_total)
    gate,  # (slots,)
    dim,
    size,
    width,
    top_k,
    total,
    bias_total,
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
    """sums (splits, weights and biases of all experts) over the pixels of each expert: of a b^T,
    then of a."""
    e = tl.program_id(2)
    r, rows, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    height, breadth = TIMES * r, dim if WIDE else r
    row_block, column_block = tl.program_id(1) // column_blocks, tl.program_id(1) % column_blocks
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
        sums += tl.program_id(0).to(tl.int64) * (total + bias_total)
        to = sums + (rows * dim if WIDE else TIMES * squares)
        mask = (n < height)[:, None] & (k < breadth)[None, :]
        tl.store(to + n[:, None] * breadth + k[None, :], found, mask=mask)
        # One is a constant, the other a tensor.
        if BIAS:  # noqa: SIM102
            if column_block == 0:
                sums += total + TIMES * rows
                tl.store(sums + n, tl.sum(bias_found, axis=0), mask=n < height)


@triton.jit
def gate_gradient(
    grad,  # (B, dim, H, W)
    x,  # (B, dim, H, W)
    sums,  # (slots, sums_b)
    sums_b,
    dim,
    size,
    width,
    top_k,
    FLAT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The last of sums (slots, sums_b): of grad * x over channels and every n-th run of pixels."""
    slot = tl.program_id(1).to(tl.int64)
    grad = image_of(grad, slot // top_k)
    x = image_of(x, slot // top_k)
    found = tl.zeros((PIXELS,), tl.float32)
    p = tl.arange(0, PIXELS)
    for first in range(tl.program_id(0) * PIXELS, size, tl.num_programs(0) * PIXELS):
        within = (p < size - first)[:, None]
        for block in range(0, dim, CHANNELS):
            c = block + tl.arange(0, CHANNELS)
            mask = within & (c < dim)[None, :]
            g = load(places(grad, first, p, c, width, FLAT), mask)
            value = load(places(x, first, p, c, width, FLAT), mask)
            found += tl.sum(g * value, axis=1)
    sums += (slot + 1) * sums_b - tl.num_programs(0)
    tl.store(sums + tl.program_id(0), tl.sum(found, axis=0))
