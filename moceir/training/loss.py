"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor


def spectrum_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference of the 2-D spectra, real and imaginary parts apart.

    restored, clean: (B, 3, H, W).
    """
    difference = torch.fft.rfft2(restored.float() - clean.float())
    return torch.view_as_real(difference).abs().mean()


def restoration_loss(
    restored: Tensor,
    clean: Tensor,
    auxiliary: Tensor,
    spectrum_weight: float = 0.1,
    auxiliary_weight: float = 0.01,
) -> Tensor:
    """``L1 + 0.1 L1 of the spectra + 0.01 L_aux``.

    restored, clean: (B, 3, H, W); auxiliary: the network's auxiliary loss, a scalar (eq. 7).
    """
    loss = (restored.float() - clean.float()).abs().mean()
    loss = loss + spectrum_weight * spectrum_l1(restored, clean)
    return loss + auxiliary_weight * auxiliary
