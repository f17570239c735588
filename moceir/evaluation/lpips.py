"""LPIPS, where its weights are present: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

BACKBONE = "vgg16-397923af.pth"
"""torchvision's file of the VGG-16 under LPIPS."""

Lpips = Callable[[Tensor, Tensor], float]


def find_lpips(device: torch.device) -> Lpips | str:
    """LPIPS (VGG) of two (3, H, W) images in [0, 1], or the reason why it cannot be measured."""
    weights = Path(torch.hub.get_dir(), "checkpoints", BACKBONE)
    try:
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        return f"{error.name} is not installed"
    if not weights.is_file():
        return f"its weights are missing ({weights})"
    metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).to(device)

    def measure(image: Tensor, clean: Tensor) -> float:
        with torch.inference_mode():
            value = metric(image[None].to(device), clean[None].to(device)).item()
        metric.reset()
        return value

    return measure
