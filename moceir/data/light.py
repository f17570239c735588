"""Colour values and light."""

from __future__ import annotations

import torch
from torch import Tensor


def of_bytes(pixels: Tensor) -> Tensor:
    """8-bit code values, uint8 or float32, as new float32 in [0, 1], on every device the same."""
    # CUDA multiplies by the inverse of a number, which rounds otherwise; by a tensor it divides.
    return pixels.float() / torch.full((), 255.0, device=pixels.device)


def to_linear(encoded: Tensor) -> Tensor:
    """sRGB code values in [0, 1] to linear light (IEC 61966-2-1)."""
    curve = encoded.mul(1 / 1.055).add_(0.055 / 1.055).pow_(2.4)
    return torch.where(encoded <= 0.04045, encoded / 12.92, curve)


def to_encoded(linear: Tensor) -> Tensor:
    """Linear light to sRGB code values; clamps to [0, 1]. The inverse of ``to_linear``."""
    linear = linear.clamp(0, 1)
    curve = linear.pow(1 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)
