"""Scenes that look degraded and are not: dark at night, or pale because someone wanted it so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moceir.data.counter import states, uniforms
from moceir.data.synthesis.stage import send

_NIGHT, _FADED = -5, -6  # streams of random numbers
_EXPONENTS = 1.25, 4.0
_BLACKS = 0.03, 0.3
_TOES = 1.5, 4.0
_LEVELS = np.arange(256) / 255


def night(clean: Tensor, seed: int, numbers: Sequence[int], share: float) -> Tensor:
    """Make a share of clean patches look like night scenes.

    Their code values are raised to a power of 1.25 to 4, log-uniform: nearly everything becomes
    dark, but what is bright stays so, as lamps do. A short exposure (``low_light``) darkens lamps,
    too, which is how a network can tell what to brighten and what to leave.

    Args:
        clean: (b, 3, H, W) uint8.
        seed, numbers: each patch is a function of the seed and its number.
        share: of the patches, 0 to 1.

    Returns:
        (b, 3, H, W) uint8 on the device of ``clean``, which is returned if the share is 0.
    """
    if share == 0:
        return clean
    u = uniforms(states(seed, np.asarray(numbers), _NIGHT), 0, 2)
    exponents = np.where(u[:, 0] < share, _between(_EXPONENTS, u[:, 1]), 1.0)
    return _through(clean, _LEVELS ** exponents[:, None])


def faded(clean: Tensor, seed: int, numbers: Sequence[int], share: float) -> Tensor:
    """Give a share of clean patches the lifted blacks of a faded print or a matte edit.

    A code value v becomes (b^p + (1 - b^p) v^p)^(1/p), b the new black, 0.03 to 0.3, and p 1.5 to
    4, both log-uniform: only shadows are compressed. Haze takes contrast from all tones alike (p =
    1), which is how a network can tell which black to restore and which to leave.

    Arguments and result are those of ``night``.
    """
    if share == 0:
        return clean
    u = uniforms(states(seed, np.asarray(numbers), _FADED), 0, 3)
    black = np.where(u[:, 0] < share, _between(_BLACKS, u[:, 1]), 0.0)[:, None]
    toe = _between(_TOES, u[:, 2])[:, None]
    floor = black**toe
    curves = np.where(black > 0, (floor + (1 - floor) * _LEVELS**toe) ** (1 / toe), _LEVELS)
    return _through(clean, curves)


def _between(limits: tuple[float, float], u: np.ndarray) -> np.ndarray:
    """Log-uniform between the limits, for ``u`` from 0 to 1."""
    low, high = limits
    return low * (high / low) ** u


def _through(clean: Tensor, curves: np.ndarray) -> Tensor:
    """Each patch of ``clean`` (b, 3, H, W) through its curve of ``curves`` (b, 256) in [0, 1]."""
    (table,) = send([np.rint(255 * curves).astype(np.uint8)], clean.device)
    return torch.gather(table, 1, clean.flatten(1).long()).view(clean.shape)
