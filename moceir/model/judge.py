"""The small network that says whether an image is better for what a specialist made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moceir.data.kinds import KINDS
from moceir.model.tone import fit_tone
from moceir.weights.bundled import SPECIALISTS

_SIZES, _SHIFTS, _LIGHT = 2, 3, 12  # numbers that ``seen`` returns, see there


@torch.inference_mode()
def seen(image: Tensor, restored: Tensor) -> Tensor:
    """What a judge sees of an image and its change: means over pixels, so that those of a large
    image are the means of its parts'.

    Args:
        image, restored: (B, 3, H, W) float32 in [0, 1].

    Returns:
        (B, 17): mean squares of the change and of that of its detail; the change of each colour;
        and of each colour, gain (its logarithm) and offset of the map of light
        (``moceir.model.tone``), the image, and its square.
    """
    tone = fit_tone(image, restored)
    change, detail = restored - image, tone.undone(restored) - image
    squares = [part.square().mean((1, 2, 3))[:, None] for part in (change, detail)]
    light = (change, tone.gain.log(), tone.offset, image, image**2)
    return torch.cat((*squares, *(part.mean((2, 3)) for part in light)), dim=1)


class Judge(nn.Module):
    """Whether an image is better for a specialist.

    Args:
        hidden: units of each specialist's own network.
    """

    mean: Tensor
    scale: Tensor
    """(6, width) each: of the inputs in training."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        width = len(KINDS) + len(SPECIALISTS) + _SIZES + _SHIFTS + _LIGHT
        for name in ("mean", "scale"):
            self.register_buffer(name, torch.ones(len(SPECIALISTS), width))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))
            for _ in SPECIALISTS
        )

    def inputs(self, seen: Tensor, logits: Tensor, applied: Tensor) -> Tensor:
        """(B, width), see ``forward``."""
        sizes, shifts, light = seen.split((_SIZES, _SHIFTS, _LIGHT), dim=1)
        return torch.cat(
            (logits, applied, sizes.sqrt().add(1e-4).log10(), 10 * shifts, light), dim=1
        )

    def forward(self, name: str, seen: Tensor, logits: Tensor, applied: Tensor) -> Tensor:
        """(B,): the more, the surer it is that the images are better for it.

        Args:
            name: of the specialist.
            seen: (B, 17), from ``seen``.
            logits: (B, 8) of ``KINDS``, by the selector of the images as they were given.
            applied: (B, 6) 1 for those of ``SPECIALISTS`` that have been applied already.
        """
        which = [*SPECIALISTS].index(name)
        x = (self.inputs(seen, logits, applied) - self.mean[which]) / self.scale[which]
        # What lies far outside of all training images counts no more than what lies at their edge.
        return self.heads[which](x.clamp(-5, 5))[:, 0]
