"""Image in, restored image out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moce_kernels.backends import BackendUnavailableError, choose
from moceir.data.pictures import open_rgb, to_image, to_tensor
from moceir.errors import ConfigError
from moceir.model import MoCEIR
from moceir.weights.bundled import BUNDLED
from moceir.weights.load import load_model

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def _device(name: str | torch.device | None) -> torch.device:
    """The device of that name, checked to be there; None: a CUDA GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {str(name)!r} cannot be used: {reason}") from None
    return device


class Restored(NamedTuple):
    """A restored picture and how it was restored."""

    image: Image.Image
    experts: tuple[int, ...]
    """The expert, 1 the cheapest, that each decoder block took (the best, if several)."""


class Restorer:
    """Restores pictures with one network.

    >>> restorer = Restorer()
    >>> restorer("photo.jpg").save("restored.png")

    Args:
        model: a network, or what ``moceir.weights.load_model`` takes: a bundled name, a folder, a
            weights file, a published checkpoint. None: the bundled weights.
        device: a torch device; None: a CUDA GPU if there is one, else the CPU.
        precision: ``float32``, ``bfloat16`` or ``float16``, of the activations; None: float32.

    Raises:
        WeightsError: weights that cannot be used.
        ConfigError: an unknown precision; a device, or a backend asked for by the environment's
            MOCE_KERNELS_BACKEND, that is not there.
    """

    def __init__(
        self,
        model: MoCEIR | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
    ) -> None:
        precision = precision or "float32"
        if precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {precision!r}: choose {', '.join(PRECISIONS)}")
        self.device = _device(device)
        self.precision = precision
        try:
            self.backend = choose("grouped_experts", None, self.device, PRECISIONS[precision])
        except BackendUnavailableError as error:
            raise ConfigError(str(error)) from error
        if not isinstance(model, MoCEIR):
            model = load_model(model or BUNDLED[0])
        self.model = model.eval().to(self.device)

    @overload
    def __call__(self, image: Image.Image | str | Path) -> Image.Image: ...
    @overload
    def __call__(self, image: np.ndarray) -> np.ndarray: ...
    @overload
    def __call__(self, image: Tensor) -> Tensor: ...
    def __call__(
        self, image: Image.Image | np.ndarray | Tensor | str | Path
    ) -> Image.Image | np.ndarray | Tensor:
        """Restore one picture, or a batch of them as a tensor; the result is of the same kind.

        Args:
            image: a PIL image (grey, RGB and alpha are kept, other modes become RGB); a numpy array
                (H, W, 3) uint8, RGB; a tensor (B, 3, H, W), floating point in [0, 1], RGB, on any
                device; or a path, restored to a PIL image.

        Raises:
            TypeError, ValueError: anything else.
            PictureError: a file that cannot be read as a picture.
        """
        if isinstance(image, (str, Path)):
            image = open_rgb(Path(image))
        if isinstance(image, Image.Image):
            return self.restore(image).image
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"array of shape {image.shape} and dtype {image.dtype}: give (H, W, 3) uint8"
                )
            return np.asarray(self.restore(Image.fromarray(image)).image)
        if isinstance(image, Tensor):
            restored, _ = self._run(image)
            return restored.to(image.device, image.dtype)
        raise TypeError(
            f"{type(image).__name__}: give a PIL image, a uint8 array, a float tensor or a path"
        )

    def restore(self, image: Image.Image) -> Restored:
        """Restore a PIL image; grey stays grey, alpha is kept, other modes become RGB."""
        alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
        restored, experts = self._run(to_tensor(image.convert("RGB"))[None])
        result = to_image(restored[0])
        if image.mode in ("L", "LA"):
            result = result.convert("L")
        if alpha is not None:
            result.putalpha(alpha)
        return Restored(result, experts)

    @torch.inference_mode()
    def _run(self, images: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(B, 3, H, W) restored and clamped, float32; the first image's expert of each block."""
        if not images.is_floating_point():
            raise ValueError(f"tensor of dtype {images.dtype}: give floating point in [0, 1]")
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
            restored, routing = self.model(
                images.to(self.device, torch.float32), return_routing=True
            )
        experts: Sequence[int] = (routing.index[:, 0, 0] + 1).tolist() if len(images) else ()
        return restored.float().clamp(0, 1), tuple(experts)
