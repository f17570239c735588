"""Pictures that are looked at as they are: found in a folder, opened, saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from moceir.errors import PictureError
from moceir.files import whole_file
from moceir.pictures.folders import SUFFIXES, walk_pictures


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
        raise PictureError(f"{folder}: no pictures in it (looked for {', '.join(SUFFIXES)})")
    return paths


def open_image(path: Path) -> Image.Image:
    """Decode a picture, upright as its EXIF orientation says.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    with _opened(path) as image:
        return ImageOps.exif_transpose(image)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height by the file's header, before EXIF turns it upright.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
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
