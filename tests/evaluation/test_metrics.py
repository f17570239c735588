"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from moceir.errors import PictureError
from moceir.evaluation.metrics import psnr, ssim

SETTINGS = {"gaussian": {"gaussian_weights": True}, "uniform": {}}


def images(height: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    clean = random.random((3, height, width), dtype=np.float32)
    noisy = np.clip(clean + 0.2 * random.standard_normal(clean.shape), 0, 1).astype(np.float32)
    return torch.from_numpy(noisy), torch.from_numpy(clean)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
@pytest.mark.parametrize("size", [(11, 11), (12, 37), (96, 64)])
def test_metrics_agree_with_scikit_image(window: str, size: tuple[int, int]) -> None:
    image, clean = images(*size, seed=size[1])
    a, b = (t.double().permute(1, 2, 0).numpy() for t in (clean, image))
    assert psnr(image, clean) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), 1e-9)
    expected = structural_similarity(a, b, data_range=1, channel_axis=2, **SETTINGS[window])
    assert ssim(image, clean, window) == pytest.approx(expected, abs=1e-9)
    # As the published code calls it, in float32.
    a, b = (t.permute(1, 2, 0).numpy() for t in (clean, image))
    expected = structural_similarity(a, b, data_range=1, channel_axis=2, **SETTINGS[window])
    assert ssim(image, clean, window) == pytest.approx(expected, abs=1e-6)


def test_equal_images() -> None:
    _, clean = images(20, 20, seed=0)
    assert psnr(clean, clean) == math.inf
    assert ssim(clean, clean) == pytest.approx(1)


def test_too_small_or_misshapen() -> None:
    image, clean = images(10, 40, seed=0)
    with pytest.raises(PictureError, match=r"SSIM needs at least 11 x 11 pixels.*40 x 10"):
        ssim(image, clean)
    assert ssim(image, clean, "uniform") < 1
    with pytest.raises(ValueError, match="give \\(3, H, W\\)"):
        psnr(image, clean[:, 1:])
    with pytest.raises(ValueError, match="choose gaussian or uniform"):
        ssim(image, clean, "round")
