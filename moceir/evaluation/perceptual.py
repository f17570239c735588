"""Measures with learned weights, where these are on this machine: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moceir.errors import first_line

BACKBONE = "vgg16-397923af.pth"
"""torchvision's file of the VGG-16 under LPIPS."""

NO_REFERENCE = {
    "niqe": "niqe_modelparameters.mat",
    "brisque": "brisque_svm_weights.pth",
    "musiq": "musiq_koniq_ckpt-e95806b9.pth",
}
"""pyiqa's measures that need no clean image, with the file of weights of each. NIQE (Mittal et al.
2013) and BRISQUE (Mittal et al. 2012): lower is better; MUSIQ (Ke et al. 2021): higher is."""

NIQE_BLOCK = 96
"""NIQE compares statistics of blocks of this side, of which it needs two."""

Lpips = Callable[[Tensor, Tensor], float]
NoReference = Callable[[Tensor], "float | None"]


def find_lpips(device: torch.device) -> Lpips | str:
    """LPIPS (VGG) of two (3, H, W) images in [0, 1], or the reason why it cannot be measured."""
    weights = Path(torch.hub.get_dir(), "checkpoints", BACKBONE)
    try:
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except (ImportError, RuntimeError) as error:
        return _unusable(error)
    if not weights.is_file():
        return f"its weights are missing ({weights})"
    metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).to(device)

    def measure(image: Tensor, clean: Tensor) -> float:
        with torch.inference_mode():
            value = metric(image[None].to(device), clean[None].to(device)).item()
        metric.reset()
        return value

    return measure


def find_no_reference(device: torch.device) -> dict[str, NoReference | str]:
    """For each of ``NO_REFERENCE``: the measure of a (3, H, W) image in [0, 1], None for an image
    that is too small for it; or the reason why it cannot be measured."""
    try:
        import pyiqa
    except (ImportError, RuntimeError) as error:
        return dict.fromkeys(NO_REFERENCE, _unusable(error))
    found: dict[str, NoReference | str] = {}
    for name, file in NO_REFERENCE.items():
        weights = Path(torch.hub.get_dir(), "pyiqa", file)
        if weights.is_file():
            found[name] = _of_pyiqa(name, pyiqa.create_metric(name, device=device))
        else:
            found[name] = f"its weights are missing ({weights})"
    return found


def _of_pyiqa(name: str, metric: Callable[[Tensor], Tensor]) -> NoReference:
    def measure(image: Tensor) -> float | None:
        height, width = image.shape[1:]
        if name == "niqe" and (height // NIQE_BLOCK) * (width // NIQE_BLOCK) < 2:
            return None
        with torch.inference_mode():
            return metric(image[None]).item()

    return measure


def _unusable(error: Exception) -> str:
    """Why a package cannot be imported. One that does not suit torch's version raises anything."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    return first_line(error)
