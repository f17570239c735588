"""Pixels as arrays, images and tensors."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from moceir import machine
from moceir.errors import PictureError

MAX_PIXELS = 10**9
"""A picture that claims more is taken for damaged or hostile."""

LUMA = (0.299, 0.587, 0.114)
"""Grey from red, green and blue (ITU-R BT.601), as Pillow has it."""


def check_size(width: int, height: int, bits: int) -> None:
    """Refuse what would not fit, before anything is allocated.

    Raises:
        PictureError: no pixels, more than MAX_PIXELS, or more than memory has room for.
    """
    pixels = width * height
    if pixels < 1:
        raise PictureError(f"claims {width} x {height}: it has no pixels")
    if pixels > MAX_PIXELS:
        raise PictureError(
            f"claims {width} x {height} = {pixels / 1e6:,.0f} megapixels, more than the "
            f"{MAX_PIXELS / 1e6:,.0f} allowed: cut it into parts"
        )
    need = pixels * 4 * -(-bits // 8) * 3  # as decoded, as an array, and restored
    available = machine.host_bytes() if need > machine.SMALL else None
    if available is not None and need > available:
        raise PictureError(
            f"{width} x {height} need {machine.readable(need)} of memory to be decoded, and "
            f"{machine.readable(available)} are free: cut it into parts"
        )


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
        raise PictureError(f"an image of Pillow's mode {mode}: convert it to RGB")
    return _array(image)


def _array(image: Image.Image) -> np.ndarray:
    """(H, W, C) uint8 of an image with 8 bits, strip by strip. ``np.asarray`` holds a whole image
    three times, so much that glibc gives the memory back after each picture: a JPEG file of a
    megapixel then takes three times as long, for the page faults."""
    array = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    rows = max(1, 2**15 // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        array[top : top + rows] = np.asarray(strip).reshape(-1, *array.shape[1:])
    return array


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


def straight(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) whose colours are multiplied with its alpha, the last channel, divided by it."""
    white = np.float32(levels(pixels.dtype))
    alpha = pixels[..., -1:].astype(np.float32)
    colours = pixels[..., :-1].astype(np.float32) * white
    divided = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
    divided = divided.clip(0, white)
    result = pixels.copy()
    result[..., :-1] = divided if white == 1 else np.rint(divided)
    return result


def without_hidden(pixels: np.ndarray) -> np.ndarray:
    """(..., H, W, C) with the colours of pixels that are wholly transparent, which nobody sees,
    replaced by those of the visible pixels around: whatever programs have left there must not
    show in what a network, or a codec, makes of the pixels beside. The same array if none is."""
    if pixels.shape[-1] not in (2, 4) or pixels[..., -1].all():
        return pixels
    result = pixels.copy()
    flat = result.reshape(-1, *pixels.shape[-3:])
    for image in flat:
        image[..., :-1] = _filled(image[..., :-1], image[..., -1] > 0)
    return result


def _filled(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, C) with mean colours, of as few pixels around as there are some, where they are not
    known; 0 where none is."""
    height, width = known.shape
    if known.all() or height * width == 1:
        return np.where(known[..., None], colours, 0).astype(colours.dtype)
    rows, columns = np.arange(0, height, 2), np.arange(0, width, 2)
    held = np.where(known[..., None], colours, 0).astype(np.float32)
    held = np.add.reduceat(np.add.reduceat(held, rows, axis=0), columns, axis=1)
    count = np.add.reduceat(
        np.add.reduceat(known.astype(np.float32), rows, axis=0), columns, axis=1
    )
    means = held / np.maximum(count, 1)[..., None]
    coarse = _filled(means, count > 0)
    spread = coarse.repeat(2, axis=0)[:height].repeat(2, axis=1)[:, :width]
    if colours.dtype.kind == "u":
        spread = np.rint(spread)
    return np.where(known[..., None], colours, spread).astype(colours.dtype)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of (H, W, C): grey becomes RGB, alpha is left out."""
    if pixels.shape[2] < 3:
        return np.repeat(to_8_bits(pixels[..., :1]), 3, axis=2)
    return np.ascontiguousarray(to_8_bits(pixels[..., :3]))


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


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """(3, H, W) float32 in [0, 1] of (H, W, 3) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """The opposite of ``to_tensor``; values are clamped and rounded to 8 bits."""
    levels = tensor.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())
