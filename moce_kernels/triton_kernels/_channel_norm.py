"""Normalisation of pixels over their channels, and kernels of pointwise_conv that do it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import (
    blocks,
    flat,
    image_of,
    load,
    pixel_block,
    places,
    store,
    strided,
    up_to,
)


@triton.jit
def moments(
    x,  # an image (C, H, W)
    first,
    p,
    inside,
    channels,
    width,
    eps,
    FLAT: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The mean of each pixel's channels and the inverse of their deviation. What is known of the
    blocks of channels so far is combined with the next (Chan et al. 1983): as exact as two walks,
    where a sum of squares would cancel."""
    mean = tl.zeros((PIXELS,), tl.float32)
    squares = tl.zeros((PIXELS,), tl.float32)
    for start in range(0, channels, DEPTH):
        k = start + tl.arange(0, DEPTH)
        exists = (k < channels)[None, :]
        value = load(places(x, first, p, k, width, FLAT), inside & exists)
        count = tl.sum((k < channels).to(tl.float32), axis=0)
        here = tl.sum(value, axis=1) / count
        value = tl.where(exists, value - here[:, None], 0.0)
        step, share = here - mean, count / (start + count)
        mean += step * share
        squares += tl.sum(value * value, axis=1) + step * step * (start * share)
    return mean, tl.rsqrt(squares / channels + eps)


@triton.jit
def normalise(x, inside, channels, eps):
    """x, zero where not inside, normalised over axis 1; the inverse of its deviation."""
    mean = tl.sum(x, axis=1)[:, None] / channels
    x = tl.where(inside, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(x * x, axis=1)[:, None] / channels + eps)
    return x * scale, scale


@triton.jit
def normalise_gradient(d, normed, scale, channels):
    """The gradient of what ``normalise`` took where d is that of ``normed``; ``normed`` and
    ``scale`` are what it returned. d is zero where not inside."""
    d -= tl.sum(d, axis=1)[:, None] / channels  # first: with few channels little remains
    return (d - normed * (tl.sum(d * normed, axis=1)[:, None] / channels)) * scale


@triton.jit
def keep_statistics(statistics, image, first, p, size, x, scale, channels):
    """What ``_norm_statistics`` has of x, zero where not inside, of which ``normalise`` returned
    the scale."""
    at = statistics + image * 2 * size + first + p
    tl.store(at, tl.sum(x, axis=1) / channels, mask=p < size - first)
    tl.store(at + size, tl.reshape(scale, p.shape), mask=p < size - first)


@triton.jit
def _norm_backward(
    d,  # (B, C, H, W)
    x,  # (B, C, H, W)
    plus,  # (B, C, H, W)
    statistics,  # (B, 2, H W): written
    eps,
    channels,
    size,
    width,
    PLUS: tl.constexpr,
    FLAT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The gradient of x in the place of d, that of its normalisation, plus `plus`; and x's
    statistics."""
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * PIXELS
    p = tl.arange(0, PIXELS)
    c = tl.arange(0, CHANNELS)
    inside = (c < channels)[None, :]
    mask = (p < size - first)[:, None] & inside
    place = places(image_of(d, image), first, p, c, width, FLAT)
    value = load(places(image_of(x, image), first, p, c, width, FLAT), mask)
    upstream = load(place, mask)
    normed, scale = normalise(value, inside, channels, eps)
    keep_statistics(statistics, image, first, p, size, value, scale, channels)
    found = normalise_gradient(upstream, normed, scale, channels)
    if PLUS:
        found += load(places(image_of(plus, image), first, p, c, width, FLAT), mask)
    store(place, found, mask)


@triton.jit
def _norm_statistics(
    x,  # (B, C, H, W)
    statistics,  # (B, 2, H W)
    eps,
    channels,
    size,
    width,
    FLAT: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """statistics (B, 2, H W): mean and inverse deviation."""
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * PIXELS
    p = tl.arange(0, PIXELS)
    inside = p < size - first
    x = image_of(x, image)
    mean, scale = moments(x, first, p, inside[:, None], channels, width, eps, FLAT, PIXELS, DEPTH)
    statistics += image * 2 * size + first + p
    tl.store(statistics, mean, mask=inside)
    tl.store(statistics + size, scale, mask=inside)


# --- launches ------------------------------------------------------------------------------------


def norm_backward(
    d: Tensor, x: Tensor, plus: Tensor | None, statistics: Tensor, eps: float
) -> None:
    """Turns d, the gradient of the normalised x, into that of x, and adds ``plus``; writes x's
    statistics."""
    batch, channels, height, width = x.shape
    size, wide = height * width, triton.next_power_of_2(channels)
    block = pixel_block(max(1, 2048 // wide), size)
    _norm_backward[blocks(size, block), batch](
        d=strided(d),
        x=strided(x),
        plus=strided(x if plus is None else plus),
        statistics=statistics,
        eps=eps,
        channels=channels,
        size=size,
        width=width,
        PLUS=plus is not None,
        FLAT=flat(*(t for t in (d, x, plus) if t is not None)),
        PIXELS=block,
        CHANNELS=wide,
        num_warps=4,
    )


def new_statistics(x: Tensor) -> Tensor:
    """(B, 2, H W), float32, for each pixel's mean over its channels and the inverse of their
    deviation."""
    batch, _, height, width = x.shape
    return torch.empty((batch, 2, height * width), dtype=torch.float32, device=x.device)


def norm_statistics(x: Tensor, statistics: Tensor, eps: float) -> None:
    """Writes x's statistics."""
    batch, channels, height, width = x.shape
    size, depth = height * width, up_to(64, channels)
    block = pixel_block(2048 // depth, size)
    _norm_statistics[blocks(size, block), batch](
        x=strided(x),
        statistics=statistics,
        eps=eps,
        channels=channels,
        size=size,
        width=width,
        FLAT=flat(x),
        PIXELS=block,
        DEPTH=depth,
        num_warps=4,
    )
