"""Clean pictures in a folder, and patches of them for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from moceir.data.counter import states, uniforms
from moceir.data.folders import SUFFIXES, walk_pictures
from moceir.errors import PictureError
from moceir.files import whole_file


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


def pixels_of(image: Image.Image) -> np.ndarray:
    """(H, W, C) of a PIL image: C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA); uint8,
    uint16 for 16-bit grey, float32 in [0, 1] for floating point grey.

    A palette becomes RGB, a transparent colour an alpha channel. CMYK becomes sRGB, through the
    ICC profile in ``image.info`` if there is one.

    Raises:
        PictureError: a mode with no such meaning, or values out of range.
    """
    mode = image.mode
    if mode.startswith("I"):
        wide = np.asarray(image)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise PictureError(
                f"32-bit grey values from {wide.min()} to {wide.max()}: scale them to 16 bits"
            )
        return wide.astype(np.uint16)[..., None]
    if mode == "F":
        return check_unit_range(np.asarray(image))[..., None]
    if mode == "CMYK":
        image = _cmyk_to_srgb(image)
    elif mode in ("P", "PA", "RGB", "L", "1", "YCbCr", "RGBX", "La", "RGBa", "LA", "RGBA", "HSV"):
        grey = mode in ("1", "L", "La", "LA")
        alpha = mode in ("PA", "La", "RGBa", "LA", "RGBA") or "transparency" in image.info
        target = ("L" if grey else "RGB") + ("A" if alpha else "")
        if mode == "1" and alpha:
            image = image.convert("L")
        if mode == "La":  # Pillow goes there by no direct way
            image = image.convert("LA")
        image = image if image.mode == target else image.convert(target)
    else:
        raise PictureError(f"a picture of Pillow's mode {mode}: convert it to RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def image_of(pixels: np.ndarray) -> Image.Image:
    """The opposite of ``pixels_of``. Pillow has more than 8 bits for grey alone: other 16-bit and
    floating point pixels are rounded to 8 bits."""
    if pixels.shape[2] == 1:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(to_8_bits(pixels))


def levels(dtype: np.dtype) -> int:
    """The value of white."""
    return {"uint8": 255, "uint16": 65535, "float32": 1}[dtype.name]


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """uint8 of uint16, or of float32 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return pixels
    scaled = pixels.astype(np.float32) * np.float32(255 / levels(pixels.dtype))
    return np.rint(scaled).astype(np.uint8)


def check_unit_range(values: np.ndarray) -> np.ndarray:
    """Floating point values as float32 in [0, 1].

    Raises:
        PictureError: NaN, infinity, or values outside.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise PictureError(
            f"{values.size - int(finite.sum())} of its values are NaN or infinite: replace them"
        )
    if values.size and (values.min() < 0 or values.max() > 1):
        raise PictureError(
            f"floating point values from {values.min():g} to {values.max():g}: scale them to 0 to 1"
        )
    return values.astype(np.float32)


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        assert converted is not None  # it returns None when it converts in place
        return converted
    except (ImageCms.PyCMSError, OSError) as error:
        raise PictureError(f"its CMYK profile cannot be used ({error})") from error


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """The opposite of ``to_tensor``; values are clamped and rounded to 8 bits."""
    levels = tensor.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())


class PixelCache:
    """Decoded pictures, kept as (H, W, 3) uint8 until they fill ``megabytes``.

    Training draws pictures evenly at random, so that none is worth more than another: what came
    first stays, and nothing is dropped.
    """

    def __init__(self, megabytes: int) -> None:
        self._room = megabytes * 2**20
        self._pixels: dict[Path, np.ndarray] = {}

    def __getitem__(self, path: Path) -> np.ndarray:
        """The pixels of a picture.

        Raises:
            PictureError: it cannot be read.
        """
        if path in self._pixels:
            return self._pixels[path]
        pixels = np.asarray(open_rgb(path))
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._pixels[path] = pixels
        return pixels


class CleanPatches:
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
        self._cache = PixelCache(cache_mb)

    def __getitem__(self, index: int) -> Tensor:
        """(3, crop, crop) uint8."""
        which, *place = places(self.seed, np.asarray([index]))[0]
        pixels = self._cache[self.paths[int(which * len(self.paths))]]
        return torch.from_numpy(cut([at_least(pixels, self.crop)], self.crop, place)[0])


def places(seed: int, numbers: np.ndarray) -> np.ndarray:
    """(b, 5) in [0, 1): of each of the patches ``numbers``, the picture and the place in it.

    Functions of the seed and the number alone; ``cut`` says what the last four are.
    """
    return uniforms(states(seed, numbers), 0, 5)


def at_least(pixels: np.ndarray, crop: int) -> np.ndarray:
    """(H, W, 3) pixels, reflected at their lower and right edge where a side is below ``crop``."""
    missing = [(0, max(0, crop - side)) for side in pixels.shape[:2]]
    if any(after for _, after in missing):
        return np.pad(pixels, [*missing, (0, 0)], mode="symmetric")
    return pixels


def cut(pictures: Sequence[np.ndarray], crop: int, place: Sequence[float]) -> np.ndarray:
    """The same square of pictures of one size, flipped and turned together.

    pictures: n of (H, W, 3). place: four numbers in [0, 1): how far down and to the right the
    square is, whether it is flipped, and its quarter turns. Returns (n, 3, crop, crop), contiguous.
    """
    height, width = pictures[0].shape[:2]
    top, left = int(place[0] * (height - crop + 1)), int(place[1] * (width - crop + 1))
    flip, turns = place[2] < 0.5, int(place[3] * 4)
    patches = []
    for pixels in pictures:
        patch = pixels[top : top + crop, left : left + crop]
        patch = np.rot90(patch[:, ::-1] if flip else patch, turns)
        patches.append(patch.transpose(2, 0, 1))
    return np.stack(patches)
