"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

LOSSES = ("l1", "l2", "log_l1")


def restoration_loss(
    restored: Tensor,
    clean: Tensor,
    auxiliary: Tensor,
    spectrum_weight: float = 0.1,
    auxiliary_weight: float = 0.01,
    kind: str = "l1",
    taught: Tensor | None = None,
) -> Tensor:
    """``L1 + 0.1 L1 of the spectra + 0.01 L_aux``.

    Args:
        restored, clean: (B, 3, H, W).
        auxiliary: the network's auxiliary loss, a scalar (eq. 7).
        spectrum_weight: of the mean absolute difference of the 2-D spectra, real and imaginary
            parts apart.
        auxiliary_weight: of ``auxiliary``.
        kind: ``l1``, as above. ``l2``: 5 times the mean squared difference in place of the first
            term, which has the slope of L1 at an error of 0.1: heavy degradations (haze, low light)
            count most. ``log_l1``: ``0.1 log(l + 0.002)`` of each image's two L1 terms ``l`` before
            the mean, so that halving an error counts the same for a slight and for a heavy
            degradation. The slope is that of ``l`` at 0.1; below 0.002, half a level of 8 bits, it
            levels off.
        taught: (B,) weights of images whose ``clean`` is in truth a teacher's restoration, or 0.
            Theirs is the weighted Huber loss in place of the above, with the slope of L1 from a
            difference of 0.02 on. Below, its gradient fades: what agrees with its teacher does not
            disturb what is still to be learned.
    """
    difference = restored.float() - clean.float()
    spectrum = torch.view_as_real(torch.fft.rfft2(difference))
    pixels = 5 * difference.square() if kind == "l2" else difference.abs()
    losses = pixels.flatten(1).mean(1) + spectrum_weight * spectrum.abs().flatten(1).mean(1)
    if kind == "log_l1":
        losses = 0.1 * (losses + 0.002).log()
    if taught is not None:
        huber = smooth_l1_loss(restored.float(), clean.float(), reduction="none", beta=0.02)
        losses = torch.where(taught > 0, taught * huber.flatten(1).mean(1), losses)
    return losses.mean() + auxiliary_weight * auxiliary
