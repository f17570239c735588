"""Scenes that are dark because it is night, and not because the exposure was too short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moceir.data.counter import states, uniforms
from moceir.data.synthesis.stage import send

_NIGHT = -5  # a stream of random numbers
_EXPONENTS = 1.25, 4.0


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
    low, high = _EXPONENTS
    exponents = np.where(u[:, 0] < share, low * (high / low) ** u[:, 1], 1.0)
    curves = np.rint(255 * (np.arange(256) / 255) ** exponents[:, None]).astype(np.uint8)
    (table,) = send([curves], clean.device)
    return torch.gather(table, 1, clean.flatten(1).long()).view(clean.shape)
