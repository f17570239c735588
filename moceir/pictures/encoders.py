"""What each file format can hold, and the encoders of all but PNG and TIFF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np

from moceir.errors import PictureError
from moceir.pictures import boxes, jp2, jxl, png, stale
from moceir.pictures.metadata import Metadata
from moceir.pictures.pixels import image_of, levels, to_8_bits, without_hidden

DEEP = {
    "PNG": 16,
    "TIFF": 32,
    "AVIF": 12,
    "HEIF": 12,
    "JPEG2000": 16,
    "PPM": 16,
}
"""Formats that are written with more than 8 bits, and with how many at most."""

WRITTEN = (
    "JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL", "JPEG2000", "GIF",
    "BMP", "DIB", "PPM", "PCX", "TGA", "QOI", "SGI", "DDS",
)  # fmt: skip
"""Formats that are written. Pillow can write others, which change a picture's size or colours
(ICO, SPIDER), or which are not read here (PDF)."""

OPAQUE = ("JPEG", "MPO", "BMP", "DIB", "PPM", "PCX")
"""Formats without transparency, or whose readers mostly take no notice of it (BMP)."""

LOSSLESS = ("WEBP", "AVIF", "HEIF", "JXL")
"""Formats with loss or without."""

_JPEGS = ("JPEG", "MPO")
WITH_EXIF = (*_JPEGS, "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL", "JPEG2000")
"""Formats that hold EXIF and XMP data."""
WITH_RESOLUTION = (*_JPEGS, "PNG", "TIFF", "BMP", "DIB", "PCX", "TGA")
_CAPTIONED = ("JPEG", "MPO", "TIFF")
_COMMENTED = ("JPEG", "MPO", "GIF")
_JPEG_SEGMENT = 65533


def of_channels(pixels: np.ndarray, file_format: str) -> tuple[np.ndarray, list[str]]:
    """The pixels with alpha only where a format holds it, and what is reduced."""
    notes = []
    transparent = pixels.shape[2] in (2, 4)
    if transparent and file_format in OPAQUE:
        if (pixels[..., -1] != levels(pixels.dtype)).any():
            mode = "RGBA" if pixels.shape[2] == 4 else "LA"
            raise PictureError(
                f"it is {mode}, and {file_format} has no transparency: choose .png or .tiff"
            )
        pixels = np.ascontiguousarray(pixels[..., :-1])
    if file_format == "GIF":
        if pixels.shape[2] >= 3:
            notes.append("reduced to 256 colours, which is all that GIF holds")
        if transparent and ((pixels[..., -1] > 0) & (pixels[..., -1] < 255)).any():
            notes.append("semi-transparent pixels became opaque or fully transparent")
    return pixels, notes


def of_depth(pixels: np.ndarray, bits: int, file_format: str) -> tuple[np.ndarray, int, list[str]]:
    """The pixels as a format holds them, with how many bits it has, and what was rounded.

    Args:
        bits: of the file that they came from.
    """
    most = DEEP.get(file_format, 8)
    if pixels.dtype == np.uint8 or (file_format == "TIFF"):
        return pixels, pixels.itemsize * 8, []
    if most == 8:
        note = f"rounded to 8 bits, which is all that {file_format} is written with"
        return to_8_bits(pixels), 8, [note]
    said = []
    if pixels.dtype == np.float32:
        pixels, bits = np.rint(pixels * np.float32(65535)).astype(np.uint16), 16
        said = [f"rounded to {most} bits, which is all that {file_format} holds"]
    if bits > most:
        said = [f"rounded to {most} bits, which is all that {file_format} holds"]
    if most == 12:
        return pixels, 10 if bits <= 10 else 12, said
    return pixels, bits if file_format == "JPEG2000" else 16, said


def left_out(metadata: Metadata, file_format: str) -> list[str]:
    """What the format has no place for."""
    blocks = {"EXIF data": metadata.exif, "XMP data": metadata.xmp}
    lost = [name for name, data in blocks.items() if data and file_format not in WITH_EXIF]
    if metadata.png_text and file_format != "PNG":
        lost.append(f"texts ({png.keywords(metadata.png_text)})")
    if stale.captions(metadata.photoshop) and file_format not in _CAPTIONED:
        lost.append("IPTC captions")
    if metadata.comments and file_format not in _COMMENTED:
        lost.append("comment")
    if {b"mDCV", b"cLLI"} & set(metadata.png_colour) and file_format != "PNG":
        lost.append("brightness on HDR displays (mDCV, cLLI)")
    if not lost:
        return []
    return [f"left out, as {file_format} has no place for them: {' and '.join(lost)}"]


@dataclass
class Wanted:
    """What is to be written."""

    pixels: np.ndarray
    """(H, W, C) uint8, or uint16 in a format of ``DEEP``."""
    metadata: Metadata
    bits: int
    """Of the samples in the file."""
    quality: int
    lossless: bool


def write(wanted: Wanted, file: BytesIO, file_format: str) -> list[str]:
    """Write a picture; what could not be kept.

    Raises:
        Exception: the format cannot hold such a picture.
    """
    writer = _WRITERS.get(file_format)
    if writer is None:
        return _with_pillow(wanted, file, file_format)
    if not wanted.lossless and file_format in LOSSLESS:
        wanted = replace(wanted, pixels=without_hidden(wanted.pixels))
    return writer(wanted, file)


def _with_pillow(wanted: Wanted, file: BytesIO, file_format: str, **options: Any) -> list[str]:
    options["quality"] = wanted.quality
    if wanted.metadata.dpi:
        options["dpi"] = wanted.metadata.dpi
    if file_format == "GIF" and wanted.metadata.comments:
        options["comment"] = b"\n".join(wanted.metadata.comments)
    image_of(wanted.pixels).save(file, format=file_format, **options)
    return []


def _blocks(metadata: Metadata) -> dict[str, bytes]:
    """Metadata as the arguments of Pillow's ``save``."""
    held = {
        "exif": metadata.exif and b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
        "icc_profile": metadata.icc,
    }
    return {name: data for name, data in held.items() if data}


def _jpeg(wanted: Wanted, file: BytesIO) -> list[str]:
    metadata, notes = wanted.metadata, []
    options: dict[str, Any] = {}
    for name, data in _blocks(metadata).items():
        if name != "icc_profile" and len(data) + 29 > _JPEG_SEGMENT:
            notes.append(f"its {name.upper()} data are too long for JPEG and were left out")
        else:
            options[name] = data
    if wanted.pixels.shape[2] == 3:
        options["subsampling"] = "4:4:4"
    options["extra"] = stale.photoshop_segments(metadata.photoshop) + b"".join(
        stale.segment(0xFE, comment[i : i + _JPEG_SEGMENT])
        for comment in metadata.comments
        for i in range(0, len(comment) or 1, _JPEG_SEGMENT)
    )
    _with_pillow(wanted, file, "JPEG", **options)
    return notes


def _webp(wanted: Wanted, file: BytesIO) -> list[str]:
    options: dict[str, Any] = {"lossless": True, "exact": True} if wanted.lossless else {}
    return _with_pillow(wanted, file, "WEBP", **options, **_blocks(wanted.metadata))


def _avif(wanted: Wanted, file: BytesIO) -> list[str]:
    import imagecodecs

    pixels, metadata = wanted.pixels, wanted.metadata
    if wanted.bits > 8:
        pixels = _fewer_bits(pixels, wanted.bits)
    primaries, transfer = (2, 2) if metadata.icc else metadata.cicp or (1, 13)
    matrix = 0 if wanted.lossless and pixels.shape[2] > 2 else 9 if primaries == 9 else 6
    encoded = imagecodecs.avif_encode(  # which takes no quality for grey: it loses nothing
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        level=100 if wanted.lossless else wanted.quality,
        speed=6,
        bitspersample=wanted.bits,
        pixelformat="400" if pixels.shape[2] < 3 else "444",
        primaries=primaries,
        transfer=transfer,
        matrix=matrix,
    )
    file.write(boxes.with_items(bytes(encoded), metadata))
    return []


def _fewer_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """uint16 of so many bits, of 16."""
    scale = np.float32((2**bits - 1) / 65535)
    return np.rint(pixels.astype(np.float32) * scale).astype(np.uint16)


def _heif(wanted: Wanted, file: BytesIO) -> list[str]:
    import pillow_heif

    pixels, metadata = wanted.pixels, wanted.metadata
    height, width, channels = pixels.shape
    mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
    if wanted.bits > 8:
        mode, pixels = f"{mode};{wanted.bits}", _fewer_bits(pixels, wanted.bits)
    options: dict[str, Any] = {"quality": wanted.quality, "bit_depth": wanted.bits}
    if wanted.lossless:
        options |= {"quality": -1, "chroma": 444}
    if not metadata.icc:
        primaries, transfer = metadata.cicp or (1, 13)
        options |= {
            "color_primaries": primaries,
            "transfer_characteristics": transfer,
            "matrix_coefficients": 0 if wanted.lossless else 9 if primaries == 9 else 6,
            "full_range_flag": 1,
        }
    elif wanted.lossless:
        options |= {"matrix_coefficients": 0, "full_range_flag": 1}
    image = pillow_heif.from_bytes(mode, (width, height), pixels.tobytes())
    image.save(file, **options, **_blocks(metadata))
    return []


def _jxl(wanted: Wanted, file: BytesIO) -> list[str]:
    encoded = BytesIO()
    options: dict[str, Any] = {"lossless": True} if wanted.lossless else {}
    _with_pillow(wanted, encoded, "JXL", **options, use_container=True)
    metadata = wanted.metadata
    file.write(jxl.with_boxes(encoded.getvalue(), metadata.exif, metadata.xmp))
    return []


def _jp2(wanted: Wanted, file: BytesIO) -> list[str]:
    import imagecodecs

    pixels, metadata = wanted.pixels, wanted.metadata
    height, width, channels = pixels.shape
    if wanted.bits > 8:
        pixels = _fewer_bits(pixels, wanted.bits)
    codestream = imagecodecs.jpeg2k_encode(
        pixels[..., 0] if channels == 1 else pixels,
        level=0,
        codecformat="j2k",
        bitspersample=wanted.bits,
        reversible=True,
    )
    size = (width, height)
    held = (metadata.icc, metadata.exif, metadata.xmp)
    file.write(jp2.with_metadata(bytes(codestream), channels, size, wanted.bits, *held))
    return []


def _ppm(wanted: Wanted, file: BytesIO) -> list[str]:
    pixels = wanted.pixels
    height, width, channels = pixels.shape
    kind, white = (5 if channels == 1 else 6), 255 if wanted.bits == 8 else 65535
    file.write(b"P%d\n%d %d\n%d\n" % (kind, width, height, white))
    file.write(pixels.astype(pixels.dtype.newbyteorder(">")).tobytes())
    return []


_WRITERS: dict[str, Callable[[Wanted, BytesIO], list[str]]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "WEBP": _webp,
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jxl,
    "JPEG2000": _jp2,
    "PPM": _ppm,
}
