"""Clean pictures in a folder, and patches of them for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from moceir.errors import PictureError
from moceir.files import whole_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Names that end so are taken for pictures in a folder."""


def find_pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted.

    Raises:
        PictureError: the folder is not there, or holds no picture.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise PictureError(f"{folder}: no pictures in it (looked for {', '.join(SUFFIXES)})")
    return paths


def open_image(path: Path) -> Image.Image:
    """Decode a picture, upright as its EXIF orientation says.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise PictureError(f"{path}: not a picture in a format that Pillow reads") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path}: cannot be read as a picture ({error})") from None


def open_rgb(path: Path) -> Image.Image:
    """``open_image`` as 8-bit RGB."""
    return open_image(path).convert("RGB")


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all, in the format of its suffix; JPEG at quality 95.

    Raises:
        PictureError: Pillow has no such format, or the format cannot hold such an image.
        OSError: the file cannot be written.
    """
    Image.init()
    file_format = Image.EXTENSION.get(path.suffix.lower())
    if file_format not in Image.SAVE:
        raise PictureError(f"{path}: no picture format is named {path.suffix!r}; try .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        try:
            image.save(file, format=file_format, quality=95)
        except OSError as error:
            if error.errno is not None:  # the disk, not the format
                raise
            raise PictureError(f"{path}: {error}") from error


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """The opposite of ``to_tensor``; values are clamped and rounded to 8 bits."""
    levels = tensor.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())


class CleanPatches(Dataset[Tensor]):
    """Random square crops of the pictures in a folder, flipped and turned.

    Patch i is a function of ``(seed, i)`` alone, i of any size: a run that is resumed at patch i
    sees what it would have seen. Pictures smaller than the crop are reflected at their edges.
    Decoded pictures stay in memory up to ``cache_mb``.

    Raises:
        PictureError: no pictures; or, when it is first used, a picture that cannot be read.
    """

    def __init__(self, folder: Path, crop: int, seed: int, cache_mb: int = 2000) -> None:
        self.paths = find_pictures(folder)
        self.crop = crop
        self.seed = seed
        self._room = cache_mb * 2**20
        self._cache: dict[Path, np.ndarray] = {}

    def __getitem__(self, index: int) -> Tensor:
        """(3, crop, crop) uint8."""
        random = np.random.default_rng((self.seed, index))
        pixels = self._pixels(self.paths[random.integers(len(self.paths))])
        missing = [(0, max(0, self.crop - side)) for side in pixels.shape[:2]]
        if any(after for _, after in missing):
            pixels = np.pad(pixels, [*missing, (0, 0)], mode="symmetric")
        top, left = (random.integers(side - self.crop + 1) for side in pixels.shape[:2])
        patch = pixels[top : top + self.crop, left : left + self.crop]
        if random.integers(2):
            patch = patch[:, ::-1]
        patch = np.rot90(patch, int(random.integers(4)))
        return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))

    def _pixels(self, path: Path) -> np.ndarray:
        if path in self._cache:
            return self._cache[path]
        pixels = np.asarray(open_rgb(path))
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._cache[path] = pixels
        return pixels
