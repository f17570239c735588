"""Degradations for training, a whole batch at once on its device.

    >>> recipe, labels = draw(seed=0, numbers=range(32), max_mixture=3, clean=0.06)
    >>> degraded = degrade(images, recipe)
    >>> hazy = degrade(images, at("haze", "medium", numbers=range(len(images))))

What is drawn, from which physics and which sources: docs/degradations.md. The host draws all
parameters, for all patches at once, and sends them in one copy that waits for nothing; the device
draws the fields that are as large as the pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moceir.data.kinds import KINDS
from moceir.data.light import of_bytes
from moceir.data.synthesis.plan import stages
from moceir.data.synthesis.recipe import SEVERAL, STAGES, STRENGTHS, Recipe, at, draw
from moceir.data.synthesis.stage import run

__all__ = ["KINDS", "SEVERAL", "STAGES", "STRENGTHS", "Recipe", "at", "degrade", "draw"]


@torch.no_grad()
def degrade(images: Tensor, recipe: Recipe) -> Tensor:
    """Degrade a batch.

    What becomes of a patch depends on its pixels, its number and the seed, never on the others of
    the batch; but what arithmetic rounds may differ between devices, and between batches where a
    library sums in another order, so that a value may come to the next of 8 bits.

    Args:
        images: (b, 3, H, W) RGB, sRGB-encoded: uint8, or floating point in [0, 1].
        recipe: of b patches.

    Returns:
        (b, 3, H, W) float32, multiples of 1/255 in [0, 1], on the images' device.

    Raises:
        TypeError: ``images`` is neither floating point nor uint8.
        ValueError: ``images`` has another shape, or the recipe another number of patches.
    """
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise TypeError(f"images must be floating point or uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    if len(images) != len(recipe.numbers):
        raise ValueError(f"{len(images)} images, but a recipe for {len(recipe.numbers)}")
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    with torch.autocast(images.device.type, enabled=False):
        # A product, so that what is given is not written to.
        degraded = torch.mul(images, scale).float()
        height, width = images.shape[2:]
        run(degraded, stages(recipe, (height, width)))
        return of_bytes(degraded.mul_(255).round_().clamp_(0, 255))
