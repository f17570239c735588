"""Pictures as training and evaluation take them: found in a folder, 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from moceir.errors import PictureError
from moceir.pictures import codec
from moceir.pictures.folders import SUFFIXES, walk_pictures
from moceir.pictures.pixels import to_rgb


def find_pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted; hidden ones and linked folders are left out.

    Raises:
        PictureError: the folder is not there, cannot be read, or holds no picture.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder")

    def failed(error: OSError) -> None:
        raise PictureError(f"{error.filename}: {error.strerror}") from error

    paths = sorted(walk_pictures(folder, SUFFIXES, on_error=failed))
    if not paths:
        raise PictureError(f"{folder}: no images in it (looked for {', '.join(SUFFIXES)})")
    return paths


def rgb_pixels(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of a picture file, upright: grey becomes RGB, alpha is left out, deeper
    pixels are rounded.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    return to_rgb(codec.read(path).pixels)


def open_rgb(path: Path) -> Image.Image:
    """``rgb_pixels`` as a PIL image."""
    return Image.fromarray(rgb_pixels(path))


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture, with the metadata that it carries, whole or not at all, in the format of
    the path's suffix; JPEG at quality 95.

    Raises:
        PictureError: there is no such format, or it cannot hold such an image.
        OSError: the file cannot be written.
    """
    codec.write(codec.picture_of(image), path)
