"""The change of light and colour in a restoration, apart from the change of detail.

Where it is hazy or too dark, restoration multiplies and shifts the colours of whole regions. Noise,
rain or blur it changes pixel by pixel around the same local mean. A linear map per region and
channel, fitted to the local means (a guided filter at low resolution: He and Sun, "Fast Guided
Filter", 2015), has the first and nothing of the second.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

CELL = 8
"""Pixels, squared, that are averaged first: in their means noise and thin streaks mostly vanish."""

RADIUS = 4
"""Of the windows of the fit, in cells."""

_LEAST, _MOST = 0.25, 16.0
_PRIOR = 1e-4  # variance of the means at which the fit is half ratio of means, half regression
_BLACK = 0.01


class Tone(NamedTuple):
    """``gain * x + offset``, each (B, 3, H, W)."""

    gain: Tensor
    offset: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        """The image in the light of the restored one."""
        return self.gain * image + self.offset

    def undone(self, restored: Tensor) -> Tensor:
        """The restored image in its original light."""
        return (restored - self.offset) / self.gain


def local_mean(image: Tensor) -> Tensor:
    """(B, C, H, W) of the same shape: means over the windows of the fit."""
    means = _mean(F.adaptive_avg_pool2d(image, _cells(image)))
    return F.interpolate(means, image.shape[2:], mode="bilinear")


def fit_tone(image: Tensor, restored: Tensor) -> Tone:
    """The map of light and colour from an image to the restored one.

    Args:
        image, restored: (B, 3, H, W) floating point in [0, 1].
    """
    x, y = (F.adaptive_avg_pool2d(part, _cells(image)) for part in (image, restored))
    mean_x, mean_y = _mean(x), _mean(y)
    covariance, variance = _mean(x * y) - mean_x * mean_y, _mean(x * x) - mean_x**2
    # Where nothing varies there is no slope to see: there it is the exposure that changed.
    ratio = (mean_y + _BLACK) / (mean_x + _BLACK)
    gain = ((covariance + _PRIOR * ratio) / (variance + _PRIOR)).clamp(_LEAST, _MOST)
    fitted = (_mean(gain), _mean(mean_y - gain * mean_x))
    return Tone(*(F.interpolate(part, image.shape[2:], mode="bilinear") for part in fitted))


def _cells(image: Tensor) -> tuple[int, int]:
    return -(-image.shape[2] // CELL), -(-image.shape[3] // CELL)


def _mean(x: Tensor) -> Tensor:
    """Over the window around each cell, as far as it lies in the image."""
    return F.avg_pool2d(x, 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)
