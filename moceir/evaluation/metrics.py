"""PSNR and SSIM as in published tables: the numbers of scikit-image, on any device.

Images are (3, H, W), floating point, RGB in [0, 1]. The arithmetic is done in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moceir.errors import PictureError

K1, K2 = 0.01, 0.03
"""SSIM's stabilisers (Wang et al. 2004)."""


def psnr(image: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two RGB images; infinite if they are equal.

    Not rounded to 8 bits. ``skimage.metrics.peak_signal_noise_ratio(data_range=1)``.
    """
    _check(image, clean)
    return psnrs(image[None], clean[None]).item()


def psnrs(images: Tensor, clean: Tensor) -> Tensor:
    """(B,) float64, ``psnr`` of each of (B, 3, H, W), on their device, which is not waited for."""
    error = (images.double() - clean.double()).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def ssim(image: Tensor, clean: Tensor, window: str = "gaussian") -> float:
    """Structural similarity, the mean over the pixels whose window lies inside and over channels.

    ``skimage.metrics.structural_similarity(data_range=1, channel_axis=...)``, which divides the
    covariances by N - 1.

    Args:
        image, clean: (3, H, W).
        window: ``gaussian``: sigma 1.5, cut off at 11 x 11 (published MoCE-IR); ``uniform``: 7 x 7
            (AirNet, PromptIR).

    Raises:
        PictureError: a side shorter than the window.
    """
    _check(image, clean)
    if window == "gaussian":
        offsets = torch.arange(-5, 6, dtype=torch.float64)
        weights = torch.exp(-offsets.square() / (2 * 1.5**2))
    elif window == "uniform":
        weights = torch.ones(7, dtype=torch.float64)
    else:
        raise ValueError(f"window is {window!r}: choose gaussian or uniform")
    size = len(weights)
    if min(clean.shape[1:]) < size:
        raise PictureError(
            f"SSIM needs at least {size} x {size} pixels, and the image has "
            f"{clean.shape[2]} x {clean.shape[1]}"
        )
    weights = (weights / weights.sum()).to(clean.device)
    x, y = image.double(), clean.double()
    # Only windows inside the image count, so that the borders need no padding.
    moments = torch.stack([x, y, x * x, y * y, x * y]).flatten(0, 1)[:, None]
    moments = F.conv2d(F.conv2d(moments, weights[None, None, :, None]), weights[None, None, None])
    mean_x, mean_y, xx, yy, xy = moments.squeeze(1).unflatten(0, (5, 3))
    unbiased = size**2 / (size**2 - 1)
    var_x = unbiased * (xx - mean_x * mean_x)
    var_y = unbiased * (yy - mean_y * mean_y)
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean().item()


def _check(image: Tensor, clean: Tensor) -> None:
    if image.shape != clean.shape or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"images have shapes {tuple(image.shape)} and {tuple(clean.shape)}: give (3, H, W)"
        )
