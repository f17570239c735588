"""Stateless random numbers: functions of a seed, a patch's number and a position.

A patch has the same random numbers alone and in any batch, on any device, in any order. What is
small is drawn on the host with NumPy (``Draw``). Fields as large as the picture are drawn on its
device (``words``, ``normals``), in integer arithmetic and a table, so that a CPU and a GPU agree
bit for bit.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def states(seed: int, numbers: np.ndarray, stream: int = 0) -> np.ndarray:
    """(b,) uint64, a state for each of the patches ``numbers``, another for each ``stream``."""
    state = _mix(np.asarray([(seed + _GOLDEN) % 2**64], dtype=np.uint64))
    state = _mix(state + np.asarray(numbers).astype(np.uint64) * np.uint64(_GOLDEN))
    return _mix(state + np.uint64((stream + 1) * _GOLDEN % 2**64))


def uniforms(state: np.ndarray, first: int, count: int) -> np.ndarray:
    """(b, count) float64 in [0, 1): numbers ``first`` and following of each state."""
    # The addend differs from that of the patch numbers, so that positions do not continue them.
    places = (np.arange(first + 1, first + count + 1).astype(np.uint64)) * np.uint64(
        0xD1B54A32D192ED03
    )
    return (_mix(state[:, None] + places) >> np.uint64(11)) * 2.0**-53


class Draw:
    """Draws parameters for n patches at once; every call takes the next numbers of each patch.

    Args:
        seed: any integer.
        numbers: (n,) integers, the patches.
        stream: keeps the numbers of one kind of degradation apart from those of the others.
        strength: (n,) in (0, 1], how strong the degradation is; see ``strong``.
    """

    def __init__(self, seed: int, numbers: np.ndarray, stream: int, strength: np.ndarray) -> None:
        self._state = states(seed, numbers, stream)
        self._used = 0
        self.strength = strength
        self.n = len(numbers)

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> np.ndarray:
        """(n, *shape) float64 in [low, high)."""
        count = math.prod(shape)
        u = uniforms(self._state, self._used, count)
        self._used += count
        return (low + (high - low) * u).reshape(self.n, *shape)

    def normal(self, *shape: int) -> np.ndarray:
        """(n, *shape) float64, standard normal."""
        u = self.uniform(0, 1, 2, *shape)
        return np.sqrt(-2 * np.log1p(-u[:, 0])) * np.cos(2 * np.pi * u[:, 1])

    def log(self, low: float, high: float, *shape: int) -> np.ndarray:
        """(n, *shape) float64, log-uniform in [low, high)."""
        return low * (high / low) ** self.uniform(0, 1, *shape)

    def happens(self, share: float) -> np.ndarray:
        """(n,) bool, true for a ``share`` of the patches."""
        return self.uniform() < share

    def strong(self, low: float | np.ndarray, high: float) -> np.ndarray:
        """(n,) float64 from low to high by the strength: log-uniform, as strengths are uniform."""
        return low * (high / low) ** self.strength

    def keys(self, rows: int) -> np.ndarray:
        """(n, rows, 2) int32, keys for ``levels``."""
        u = self.uniform(0, 2.0**32, rows, 2)
        return u.astype(np.uint32).view(np.int32)


@lru_cache(maxsize=8)
def _sequence(count: int, device: torch.device) -> Tensor:
    """(1, count) int32, a Weyl sequence."""
    return torch.arange(count, dtype=torch.int32, device=device)[None] * -0x61C88647


def words(keys: Tensor, count: int) -> Tensor:
    """Random 32-bit words on the device of ``keys``, word j of row i a function of key i and j.

    The integer hash "lowbias32" (Wellons 2018) of a Weyl sequence, with half of the key before its
    first round and half after.

    Args:
        keys: (r, 2) int32.
        count: words of a row.

    Returns:
        (r, count) int32.
    """
    x = _sequence(count, keys.device) + keys[:, :1]
    # Signed shifts bring in copies of the sign, which the masks take away.
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    x *= 0x21F0AAAD
    x ^= keys[:, 1:]
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= 0x735A2D97
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))


def levels(keys: Tensor, count: int) -> Tensor:
    """(r, count) int32, uniform from 0 to 65535, on the device of ``keys``, (r, 2) int32."""
    halves = words(keys, (count + 1) // 2).view(torch.int16)
    return halves[:, :count].int().add_(32768)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """(65536,) float32: the standard normal's value at the middle of each step of probability."""
    steps = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536)
    return (steps / steps.square().mean().sqrt()).float().to(device)


def normals(levels: Tensor) -> Tensor:
    """Standard normal float32 of ``levels``, in 65,536 steps up to 4.2."""
    drawn = _quantiles(levels.device).index_select(0, levels.flatten())
    return drawn.view(levels.shape)
