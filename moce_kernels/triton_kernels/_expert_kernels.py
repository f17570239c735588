"""The kernels of grouped_experts, forward: see there for the steps that they are of."""

from __future__ import annotations

import triton
import triton.language as tl

from moce_kernels.triton_kernels._channel_norm import moments
from moce_kernels.triton_kernels._common import (
    expert_shape,
    image_of,
    load,
    places,
    product,
    rounded,
    slot_and_expert,
    store,
)
from moce_kernels.triton_kernels._norm_gate import after_keys


@triton.jit
def times(
    x,  # an image (go_in, H, W)
    weight,  # (come_out, go_in)
    by_n,  # its strides
    by_k,
    n,
    come_out,
    go_in,
    first,
    p,
    within,
    width,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Channels n of weight x, (PIXELS, CHANNELS) in float32."""
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, go_in, DEPTH):
        k = start + tl.arange(0, DEPTH)
        at = places(x, first, p, k, width, FLAT)
        a = tl.load(at, mask=within & (k < go_in)[None, :], other=0.0)
        at = weight + n[None, :] * by_n + k[:, None] * by_k
        w = load(at, (k < go_in)[:, None] & (n < come_out)[None, :])
        total += product(a, w, PRECISION)
    return total


@triton.jit
def _linear(
    x,  # an image (go_in, H, W)
    out,  # an image (come_out, H, W)
    weight,  # (come_out, go_in)
    come_out,
    go_in,
    first,
    p,
    within,
    width,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = weight x at some pixels, all channels."""
    for block in range(0, come_out, CHANNELS):
        n = block + tl.arange(0, CHANNELS)
        total = times(
            x, weight, go_in, 1, n, come_out, go_in, first, p, within, width,
            FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
        )  # fmt: skip
        to = places(out, first, p, n, width, FLAT)
        store(to, total, within & (n < come_out)[None, :])


@triton.jit
def project(
    x,  # (B, dim, H, W)
    h,  # (slots, widest rank, H, W)
    q,  # (slots, widest rank, H, W)
    kv,  # (slots, 2 * widest rank, H, W)
    in_proj,  # (all ranks, dim)
    query,  # of all experts, (rank, rank) each
    key_value,  # of all experts, (2 * rank, rank) each
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
    """h = in_proj x, then q = query h and kv = key_value h: a program has all channels of its
    pixels, and reads what it stored of h again, from a cache."""
    slot, e = slot_and_expert(tl.program_id(1), index, order, RANKS)
    r, rows, squares, _ = expert_shape(e, RANKS, WINDOWS, 0)
    first = tl.program_id(0) * PIXELS
    p = tl.arange(0, PIXELS)
    within = (p < size - first)[:, None]
    h = image_of(h, slot)
    _linear(
        image_of(x, slot // top_k), h, in_proj + rows * dim, r, dim, first, p, within, width,
        FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
    )  # fmt: skip
    tl.debug_barrier()  # other threads read what this one stored
    _linear(
        h, image_of(q, slot), query + squares, r, r, first, p, within, width,
        FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
    )  # fmt: skip
    _linear(
        h, image_of(kv, slot), key_value + 2 * squares, 2 * r, r, first, p, within, width,
        FLAT, PRECISION, PIXELS, CHANNELS, DEPTH,
    )  # fmt: skip


@triton.jit
def finish(
    mixed,  # (slots, widest rank, H, W), float32
    kv,  # (slots, 2 * widest rank, H, W): keys, then values
    shared,  # (B, dim, H, W)
    x,  # (B, dim, H, W)
    out,  # (B, dim, H, W)
    norm,  # (all ranks,)
    norm_bias,  # (all ranks,)
    attn_out,  # of all experts, (rank, rank) each
    attn_out_bias,  # (all ranks,)
    mod_proj,  # (all ranks, dim)
    out_proj,  # (all ranks, dim)
    gate,  # (slots,)
    eps,
    channel_blocks,
    dim,
    size,
    width,
    top_k,
    index,  # (slots,): experts
    RANKS: tl.constexpr,  # of all experts
    WINDOWS: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,  # channels of z at a time
    DEPTH: tl.constexpr,
):
    """out = sum over an image's experts of gate (out_proj^T z + x), where
    z = (attn_out (LayerNorm(mixed) v) + bias) * SiLU(mod_proj shared)."""
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) // channel_blocks * PIXELS
    p = tl.arange(0, PIXELS)
    within = (p < size - first)[:, None]
    n = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    gates = 0.0
    for j in range(top_k):
        slot = image * top_k + j
        r, rows, squares, _ = expert_shape(tl.load(index + slot).to(tl.int32), RANKS, WINDOWS, 0)
        by = tl.load(gate + slot)
        gates += by
        m, v = image_of(mixed, slot), image_of(after_keys(kv, r), slot)
        mean, scale = moments(m, first, p, within, r, width, eps, FLAT, PIXELS, DEPTH)
        for block in range(0, r, INNER):
            i = block + tl.arange(0, INNER)
            attention = tl.zeros((PIXELS, INNER), tl.float32)
            for start in range(0, r, DEPTH):
                k = start + tl.arange(0, DEPTH)
                mask = within & (k < r)[None, :]
                a = load(places(m, first, p, k, width, FLAT), mask)
                a = (a - mean[:, None]) * scale[:, None]
                a *= load(norm + rows + k, k < r)[None, :]
                a += load(norm_bias + rows + k, k < r)[None, :]
                a *= load(places(v, first, p, k, width, FLAT), mask)
                at = attn_out + squares + i[None, :] * r + k[:, None]
                w = load(at, (k < r)[:, None] & (i < r)[None, :])
                attention += product(rounded(a, out.data.dtype.element_ty), w, PRECISION)
            attention += load(attn_out_bias + rows + i, i < r)[None, :]
            modulation = times(
                image_of(shared, image), mod_proj + rows * dim, dim, 1, i, r, dim,
                first, p, within, width, FLAT, PRECISION, PIXELS, INNER, DEPTH,
            )  # fmt: skip
            z = rounded(
                attention * modulation * tl.sigmoid(modulation) * by, out.data.dtype.element_ty
            )
            at = out_proj + (rows + i)[:, None] * dim + n[None, :]
            w = load(at, (i < r)[:, None] & (n < dim)[None, :])
            total += product(z, w, PRECISION)
    mask = within & (n < dim)[None, :]
    total += gates * load(places(image_of(x, image), first, p, n, width, FLAT), mask)
    store(places(image_of(out, image), first, p, n, width, FLAT), total, mask)
