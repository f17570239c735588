"""Light and colour apart from detail."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from moceir.model.tone import fit_tone

SIDES = ((96, 128), (37, 53), (8, 200), (1, 1))


def scene(height: int, width: int) -> torch.Tensor:
    """Smooth, with contrast everywhere."""
    coarse = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0.1, 0.9)


@pytest.mark.parametrize("sides", SIDES)
def test_an_exposure_is_found_exactly(sides: tuple[int, int]) -> None:
    bright = scene(*sides)
    tone = fit_tone(bright / 4, bright)
    assert torch.allclose(tone(bright / 4), bright, atol=0.02)
    assert torch.allclose(tone.undone(bright), bright / 4, atol=0.01)


@pytest.mark.parametrize("sides", SIDES[:2])
def test_haze_is_found(sides: tuple[int, int]) -> None:
    clear = scene(*sides)
    hazy = 0.4 * clear + 0.6 * 0.9
    tone = fit_tone(hazy, clear)
    assert (tone(hazy) - clear).abs().mean() < 0.1 * (hazy - clear).abs().mean()


@pytest.mark.parametrize("sides", SIDES)
def test_applying_and_undoing_are_inverse(sides: tuple[int, int]) -> None:
    image, restored = scene(*sides), scene(*sides).flip(3) ** 2
    tone = fit_tone(image, restored)
    assert torch.allclose(tone(tone.undone(restored)), restored, atol=1e-5)
    assert torch.allclose(tone.undone(tone(image)), image, atol=1e-5)


def test_noise_is_detail() -> None:
    clean = scene(128, 160)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    tone = fit_tone(noisy, clean)
    assert (tone(noisy) - noisy).abs().mean() < 0.1 * (noisy - clean).abs().mean()
    # What is left of the denoised image in its first light has the light of the noisy one.
    means = F.avg_pool2d(tone.undone(clean), 16), F.avg_pool2d(noisy, 16)
    assert (means[0] - means[1]).abs().mean() < 0.01


def test_black_stays_finite() -> None:
    for restored in (torch.zeros(1, 3, 20, 20), torch.ones(1, 3, 20, 20)):
        tone = fit_tone(torch.zeros(1, 3, 20, 20), restored)
        assert tone(torch.zeros(1, 3, 20, 20)).isfinite().all()
        assert tone.undone(restored).isfinite().all() and (tone.gain >= 0.25).all()
