"""The ComfyUI node "MoCE-IR Restore". ComfyUI finds it through the folder integrations/comfyui."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from torch import Tensor

from moceir.data.kinds import KINDS
from moceir.inference import memory
from moceir.inference.restorer import Restorer
from moceir.inference.settings import FOUND
from moceir.weights.bundled import BUNDLED, TOGETHER
from moceir.weights.files import SUFFIXES

FOLDER = "moceir"
"""Of weights files, in ComfyUI's folder ``models``."""

EVERYTHING = "everything"

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


class Restore:
    """The node, as ComfyUI wants its nodes: plain classes with these names."""

    CATEGORY = "image/restoration"
    DESCRIPTION = "Restores images with noise, rain, haze, blur, snow, JPEG artefacts or low light."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "restore"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        files = folder_paths.get_filename_list(FOLDER)
        weights = [name for name in files if name.endswith(SUFFIXES)]
        return {
            "required": {
                "image": ("IMAGE",),
                "weights": ([TOGETHER, *BUNDLED, *weights],),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
                "tile": ("INT", {"default": 0, "min": 0, "max": 16384, "step": 64}),
            },
            # Workflows of earlier versions do not have it.
            "optional": {"remove": ([EVERYTHING, FOUND, *KINDS],)},
        }

    def restore(
        self,
        image: Tensor,
        weights: str,
        strength: float,
        tile: int,
        remove: str = EVERYTHING,
    ) -> tuple[Tensor]:
        """Restore a batch, one image after the other.

        Args:
            image: (B, H, W, C) floating point, RGB, perhaps with alpha, which is copied. Values out
                of [0, 1], which some nodes leave, are clamped.
            weights: ``specialists``, a bundled name, or a file in FOLDER.
            strength: from 0, the image as it was, to 1, fully restored.
            tile: side of the tiles in pixels; 0: the whole image if it fits, else the largest that
                do.
            remove: everything, what is found in each image, or one kind of degradation.

        Returns:
            The restored images, float32 on the CPU.

        Raises:
            MoceirError: weights or a tile size that cannot be used, too little memory.
        """
        device = comfy.model_management.get_torch_device()
        restorer = _restorer(*_source(weights), str(device))
        pixels = image.detach().cpu().float().clamp(0, 1).numpy()
        restored = np.empty_like(pixels)
        number, height, width, _ = pixels.shape
        # ComfyUI's other models make room.
        sides = (min(tile, height), min(tile, width)) if tile else (height, width)
        need = memory.network_bytes(restorer.model.config, *sides, device=device)
        comfy.model_management.free_memory(int(need / memory.SHARE), device)
        progress = comfy.utils.ProgressBar(number)
        for i in range(number):
            comfy.model_management.throw_exception_if_processing_interrupted()
            restored[i], _ = restorer.restore_pixels(
                pixels[i],
                tile=tile or None,
                strength=strength,
                only=None if remove == EVERYTHING else remove,
            )
            progress.update(1)
        return (torch.from_numpy(restored),)


def _source(weights: str) -> tuple[str, int]:
    """What ``Restorer`` takes, and when it was last changed."""
    if weights in (TOGETHER, *BUNDLED):
        return weights, 0
    path = folder_paths.get_full_path_or_raise(FOLDER, weights)
    return path, Path(path).stat().st_mtime_ns


@functools.lru_cache(maxsize=1)
def _restorer(source: str, changed: int, device: str) -> Restorer:
    """The last one is kept: a workflow calls it again and again."""
    return Restorer(source, device)


NODE_CLASS_MAPPINGS = {"MoCEIRRestore": Restore}
NODE_DISPLAY_NAME_MAPPINGS = {"MoCEIRRestore": "MoCE-IR Restore"}
