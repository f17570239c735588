"""Circular convolution of windows by Hartley transforms, as matrix products of one tile.

The Hartley transform has real spectra: X[f] = sum_n cas(2 pi f n / P) x[n], cas = cos + sin. It is
its own inverse but for a factor P, and with X'[f] = X[-f] a circular convolution z = x (*) y has

    Z = E Y + O Y',    E = (X + X') / 2,  O = (X - X') / 2

so along both axes of a window it takes two products with a P x P matrix and a reversal of each
axis. A tile of TILE x TILE pixels holds whole windows, 16 or as many as fit: its matrix has cas of
every window on its diagonal. One program of one shape thus serves windows of any size, one for
each image. (A value that is not finite spreads over its tile.)

Sums are float32 on the usual arithmetic units, never tf32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _cosine(m):
    """cos(2 pi m / 32) for integers, from the nearest float32 values."""
    m = m & 31
    m = tl.where(m > 16, 32 - m, m)
    j = tl.where(m > 8, 16 - m, m)
    c = tl.where(j == 0, 1.0, 0.0)
    c = tl.where(j == 1, 0.9807852804032304, c)
    c = tl.where(j == 2, 0.9238795325112867, c)
    c = tl.where(j == 3, 0.8314696123025452, c)
    c = tl.where(j == 4, 0.7071067811865476, c)
    c = tl.where(j == 5, 0.5555702330196022, c)
    c = tl.where(j == 6, 0.3826834323650898, c)
    c = tl.where(j == 7, 0.19509032201612825, c)
    return tl.where(m > 8, -c, c)


@triton.jit
def cas_matrix(window, TILE: tl.constexpr):
    """(TILE, TILE): what is left of cas(2 pi i j / window) after ``_halve``: for even frequencies i
    the sums j < window / 2 of each window, for odd ones the differences."""
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    half = window // 2
    m = ((i * (j & (half - 1))) & (window - 1)) * (32 // window)
    here = ((i ^ j) < window) & ((i & 1) == tl.where((j & half) != 0, 1, 0))
    return tl.where(here, _cosine(m) + _cosine(m - 8), 0.0)


@triton.jit
def _halve(x, window, TILE: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums and differences of the halves of each window along axis 0: the first step of an FFT. The
    products after it add up half as many numbers, and so round less."""
    j = tl.arange(0, TILE)[:, None, None]
    other = tl.gather(x, tl.broadcast_to(j ^ (window // 2), (TILE, TILE, CHANNELS)), 0)
    return tl.where((j & (window // 2)) == 0, x + other, other - x)


@triton.jit
def transform(x, cas, window, TILE: tl.constexpr, CHANNELS: tl.constexpr):
    """(y, x, channel) to (frequency along x, along y, channel), and back but for a factor."""
    x = tl.reshape(_halve(x, window, TILE, CHANNELS), (TILE, TILE * CHANNELS))
    x = tl.dot(cas, x, input_precision="ieee")
    x = tl.permute(tl.reshape(x, (TILE, TILE, CHANNELS)), (1, 0, 2))
    x = tl.reshape(_halve(x, window, TILE, CHANNELS), (TILE, TILE * CHANNELS))
    x = tl.dot(cas, x, input_precision="ieee")
    return tl.reshape(x, (TILE, TILE, CHANNELS))


@triton.jit
def _reverse(x, window, AXIS: tl.constexpr, TILE: tl.constexpr, CHANNELS: tl.constexpr):
    f = tl.arange(0, TILE)
    f = (f & ~(window - 1)) | (-f & (window - 1))
    f = f[:, None, None] if AXIS == 0 else f[None, :, None]
    return tl.gather(x, tl.broadcast_to(f, (TILE, TILE, CHANNELS)), AXIS)


@triton.jit
def multiply(a, b, window, CORRELATE: tl.constexpr, TILE: tl.constexpr, CHANNELS: tl.constexpr):
    """The spectrum, scaled for the way back, of a (*) b; or of a correlated with b, which is the
    convolution with b reversed."""
    a = a * (0.25 / (window * window))
    reversed1 = _reverse(a, window, 1, TILE, CHANNELS)
    even, odd = a + reversed1, a - reversed1
    reversed0 = _reverse(even, window, 0, TILE, CHANNELS)
    even_even, odd_even = even + reversed0, even - reversed0
    reversed0 = _reverse(odd, window, 0, TILE, CHANNELS)
    even_odd, odd_odd = odd + reversed0, odd - reversed0
    if CORRELATE:
        out = odd_odd * b
        b0 = _reverse(b, window, 0, TILE, CHANNELS)
        out += even_odd * b0
        out += even_even * _reverse(b0, window, 1, TILE, CHANNELS)
        out += odd_even * _reverse(b, window, 1, TILE, CHANNELS)
    else:
        out = even_even * b
        b0 = _reverse(b, window, 0, TILE, CHANNELS)
        out += odd_even * b0
        out += odd_odd * _reverse(b0, window, 1, TILE, CHANNELS)
        out += even_odd * _reverse(b, window, 1, TILE, CHANNELS)
    return out
