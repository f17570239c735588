"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor


def restoration_loss(
    restored: Tensor,
    clean: Tensor,
    auxiliary: Tensor,
    spectrum_weight: float = 0.1,
    auxiliary_weight: float = 0.01,
    image_weights: Tensor | None = None,
) -> Tensor:
    """``L1 + 0.1 L1 of the spectra + 0.01 L_aux``.

    Args:
        restored, clean: (B, 3, H, W).
        auxiliary: the network's auxiliary loss, a scalar (eq. 7).
        spectrum_weight: of the mean absolute difference of the 2-D spectra, real and imaginary
            parts apart.
        auxiliary_weight: of ``auxiliary``.
        image_weights: (B,) weights of the images in both L1 terms; None: all 1.
    """
    difference = restored.float() - clean.float()
    spectrum = torch.view_as_real(torch.fft.rfft2(difference))
    losses = difference.abs().flatten(1).mean(1)
    losses = losses + spectrum_weight * spectrum.abs().flatten(1).mean(1)
    if image_weights is not None:
        losses = losses * image_weights
    return losses.mean() + auxiliary_weight * auxiliary


def severity_weights(degraded: Tensor, clean: Tensor) -> Tensor:
    """(B,) weights that let slight degradations count beside heavy ones.

    The inverse square root of the degradation's own L1 error, so that an almost black or deeply
    hazed picture outweighs a blurred one less in a mixed batch. An error of 0.08, that of noise of
    sigma 25, has weight 1.
    """
    return 0.3 * ((degraded - clean).abs().flatten(1).mean(1) + 0.01).rsqrt()
