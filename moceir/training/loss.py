"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn.functional import smooth_l1_loss

LOSSES = ("l1", "l2", "log_l1", "log_l2", "relative", "relative_l2")
RELATIVE_FLOORS = {"relative": 0.01, "relative_l2": 0.002}
"""The losses whose images ``KindMeans`` weighs, each with what is added to the expected loss of an
image, so that those with nothing to mend do not drown the rest."""


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
        auxiliary: the network's auxiliary loss, a scalar (eq. 7).
        auxiliary_weight: its weight.
        others: see ``image_losses``.
    """
    losses = image_losses(restored, clean, spectrum_weight, kind, taught)
    return losses.mean() + auxiliary_weight * auxiliary


def image_losses(
    restored: Tensor,
    clean: Tensor,
    spectrum_weight: float = 0.1,
    kind: str = "l1",
    taught: Tensor | None = None,
) -> Tensor:
    """(B,) the loss of each image: ``L1 + 0.1 L1 of the spectra``.

    Args:
        restored, clean: (B, 3, H, W).
        spectrum_weight: of the mean absolute difference of the 2-D spectra, real and imaginary
            parts apart.
        kind: ``l1``, as above. ``l2``: 5 times the mean squared difference in place of the first
            term, which has the slope of L1 at an error of 0.1: heavy degradations (haze, low light)
            count most. ``log_l1``: ``0.1 log(l + 0.005)`` of each image's two L1 terms ``l``, so
            that halving an error counts the same for a slight and for a heavy degradation, as it
            does in dB. The slope is that of ``l`` at 0.1; below 0.005, about one level of 8 bits,
            it levels off, so that clean patches do not outweigh the others. ``log_l2``: ``0.1
            log(m + 1e-5)`` of the mean squared difference ``m`` in place of the first term: PSNR,
            levelling off at 50 dB.
            ``relative`` and ``relative_l2``: as ``l1`` and ``l2``; ``KindMeans`` then weighs the
            images.
        taught: (B,) weights of images whose ``clean`` is in truth a teacher's restoration, or 0.
            Theirs is the weighted Huber loss in place of the above, with the slope of L1 from a
            difference of 0.02 on. Below, its gradient fades: what agrees with its teacher does not
            disturb what is still to be learned.
    """
    difference = restored.float() - clean.float()
    spectrum = torch.view_as_real(torch.fft.rfft2(difference))
    pixels = difference.square() if kind in ("l2", "log_l2", "relative_l2") else difference.abs()
    if kind in ("l2", "relative_l2"):
        pixels = 5 * pixels
    losses, of_spectra = (t.flatten(1).mean(1) for t in (pixels, spectrum.abs()))
    if kind == "log_l2":
        losses = 0.1 * (losses + 1e-5).log()
    losses = losses + spectrum_weight * of_spectra
    if kind == "log_l1":
        losses = 0.1 * (losses + 0.005).log()
    if taught is not None:
        huber = smooth_l1_loss(restored.float(), clean.float(), reduction="none", beta=0.02)
        losses = torch.where(taught > 0, taught * huber.flatten(1).mean(1), losses)
    return losses


class KindMeans:
    """Running means of the loss and of the damage of each kind of degradation.

    Darkness costs a hundred times what a little noise does. Relative to its mean each kind counts
    alike. Within a kind, too, slight damage costs little, and a network that mends what is strong
    may harm what is slight: the loss that is expected of a patch grows with the root of its damage.

    Args:
        count: of kinds.
        device: of the losses.
        floor: of ``RELATIVE_FLOORS``.
    """

    RATE = 0.02
    """Share of the last batch in a mean."""

    def __init__(self, count: int, device: torch.device, floor: float = 0.01) -> None:
        self.floor = floor
        self.values = torch.zeros(2, count, device=device)
        """(2, count), of loss and damage; 0 for a kind that has not come yet."""
        self._kinds = torch.arange(count, device=device)

    def relative(self, losses: Tensor, damage: Tensor, labels: Tensor) -> Tensor:
        """The losses, each relative to what is expected of such a patch.

        Args:
            losses: (B,), after which the means follow, those of all processes that train together.
            damage: (B,) mean absolute difference between degraded and clean.
            labels: (B,) int64, the kinds.

        Returns:
            (B,) ``0.1 l / (expected + floor)``, where what is expected is the mean loss of its kind
            times ``sqrt(damage / mean damage of its kind)``.
        """
        with torch.no_grad():
            of_kind = (labels[:, None] == self._kinds).to(losses.dtype)
            sums = torch.stack([losses.detach(), damage, torch.ones_like(damage)]) @ of_kind
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(sums)
            found = sums[:2] / sums[2].clamp_min(1)
            moved = torch.where(self.values == 0, found, self.values.lerp(found, self.RATE))
            self.values.copy_(torch.where(sums[2] > 0, moved, self.values))
            loss, usual = self.values[:, labels]
            expected = loss * (damage / usual.clamp_min(1e-6)).sqrt()
        return 0.1 * losses / (expected + self.floor)
