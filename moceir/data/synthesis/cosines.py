"""Smooth random fields."""

from __future__ import annotations

import numpy as np

from moceir.data.counter import Draw

LATTICE = 33
"""Side of the lattices of ``cosine_field``, which are interpolated to the picture's size."""


def cosine_field(
    draw: Draw, view: np.ndarray, roughness: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth random fields with structure at every scale: cosine series with falling weights.

    Args:
        draw: source of randomness for n patches.
        view: (n,) the share of the scene's height and width that a patch shows.
        roughness: (n,) the exponent of the fall of the weights with the frequency; the lower, the
            more fine structure.

    Returns:
        (n, 33, 33) float64 of unit variance over scenes; and the rows and columns of the lattice
        in the scene, (n, 33) in [0, 1].
    """
    frequency = np.arange(13)
    corner = draw.uniform(0, 1, 2) * (1 - view)[:, None]
    place = corner[..., None] + view[:, None, None] * np.linspace(0, 1, LATTICE)
    rows, columns = np.cos(np.pi * place[..., None] * frequency).transpose(1, 0, 2, 3)
    distance = 1 + frequency[:, None] ** 2 + frequency**2
    weight = distance ** (-roughness[:, None, None] / 2)
    weight[:, 0, 0] = 0
    # The mean square of a cosine is a half, or 1 for that of frequency 0.
    half = np.where(frequency == 0, 1.0, 0.5)
    norm = np.sqrt((weight**2 * half[:, None] * half).sum((1, 2), keepdims=True))
    series = draw.normal(13, 13) * weight / norm
    return rows @ series @ columns.transpose(0, 2, 1), place[:, 0], place[:, 1]
