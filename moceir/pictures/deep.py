"""What Pillow drops when it reads a file: bits beyond 8, colour descriptions, losslessness."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

from moceir.errors import PictureError
from moceir.pictures import boxes, jp2, jxl
from moceir.pictures.colour import code_points, code_points_of
from moceir.pictures.metadata import Metadata
from moceir.pictures.pixels import check_size, check_unit_range, straight
from moceir.pictures.stale import CREDENTIALS, GAIN_MAP


@dataclass
class Stored:
    """What Pillow does not report about a file."""

    pixels: np.ndarray | None = None
    """(H, W, C), oriented as Pillow's; None if Pillow's pixels are right."""
    bits: int = 8
    """Of its samples."""
    lossless: bool = False
    """It was written without loss in a format that may lose something."""
    metadata: Metadata = field(default_factory=Metadata)
    """Fields that are not empty take precedence over Pillow's."""
    notes: list[str] = field(default_factory=list)


def read(image: Image.Image, data: bytes) -> Stored:
    """What Pillow does not report about a file that it has loaded.

    Raises:
        PictureError: a kind that is not read; more than memory has room for.
        Exception: damaged.
    """
    found = _READERS.get(image.format or "", _other)(image, data)
    if found.pixels is not None and found.pixels.shape[:2] != (image.height, image.width):
        raise ValueError("two sizes in one file")
    return found


def _scaled(pixels: np.ndarray, bits: int) -> np.ndarray:
    """(H, W, C) uint16 of whole numbers with so many bits, uint8 if 8 suffice, or float32 of
    floating point ones."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] > 4:
        raise ValueError(f"an array of {pixels.shape}")
    if pixels.dtype.kind == "f":
        return check_unit_range(pixels)
    if bits in (8, 16):
        return pixels.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    white = np.uint32(2**bits - 1)
    return ((pixels * np.uint32(65535) + white // 2) // white).astype(np.uint16)


def _avif(image: Image.Image, data: bytes) -> Stored:
    import imagecodecs

    properties = boxes.primary_properties(data)
    found = Stored(bits=boxes.bits(properties))
    described = boxes.nclx(properties)
    if described:
        found.metadata.cicp = code_points(*described[:2])
        found.lossless = described[2] == 0  # the samples are red, green and blue
    found.notes += boxes.left_out(data)
    if found.bits > 8 or boxes.is_grey(properties):  # Pillow makes RGB of grey
        check_size(image.width, image.height, 16)
        found.pixels = _scaled(imagecodecs.avif_decode(data, 0), found.bits)
    return found


def _heif(image: Image.Image, data: bytes) -> Stored:
    import pillow_heif

    found = Stored(bits=image.info.get("bit_depth", 8))
    described = image.info.get("nclx_profile", {})
    found.lossless = described.get("matrix_coefficients") == 0
    extras = {
        "depth map": image.info.get("depth_images"),
        "auxiliary images": [
            name for name in image.info.get("aux", {}) if "gainmap" not in name.lower()
        ],
    }
    found.notes += boxes.left_out(data)
    if any("gainmap" in name.lower() for name in image.info.get("aux", {})):
        found.notes += [] if GAIN_MAP in found.notes else [GAIN_MAP]
    found.notes += [f"its {name} was left out" for name, there in extras.items() if there]
    if found.bits > 8:
        check_size(image.width, image.height, 16)
        file = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False)
        first = file[file.primary_index]
        pixels = np.asarray(first)[:, : image.width]
        found.pixels = _scaled(pixels >> np.uint16(16 - found.bits), found.bits)
        if first.premultiplied_alpha:
            found.pixels = straight(found.pixels)
    return found


def _jxl(image: Image.Image, data: bytes) -> Stored:
    import imagecodecs

    header = jxl.read(data)
    found = Stored(bits=header.bits, lossless=header.lossless)
    found.metadata.exif, found.metadata.xmp = header.exif, header.xmp
    found.metadata.cicp = code_points_of(image.info.get("icc_profile", b""))
    if header.others:
        raise PictureError("JPEG XL with channels beside colours and alpha: convert it to PNG")
    if header.packed:
        found.notes.append("its compressed XMP data were left out")
    found.notes += [CREDENTIALS] if header.signed else []
    found.notes += [GAIN_MAP] if header.gain_map else []
    if header.animated:
        found.notes.append("the first of its frames")
    if header.bits > 8 or header.floating or header.premultiplied:
        check_size(image.width, image.height, header.bits)
        pixels = imagecodecs.jpegxl_decode(data, 0)
        pixels = _scaled(pixels, max(8, header.bits))
        found.pixels = straight(pixels) if header.premultiplied else pixels
    return found


def _jp2(image: Image.Image, data: bytes) -> Stored:
    import imagecodecs

    header = jp2.read(data)
    found = Stored(bits=max(header.bits, default=8))
    held = found.metadata
    held.icc, held.exif, held.xmp = header.icc, header.exif, header.xmp
    channels = len(header.bits)
    unstated = channels in (2, 4) and header.alpha is None and image.mode in ("LA", "RGBA")
    if unstated:
        found.notes.append(UNSTATED)
    if found.bits <= 8 and not unstated and header.alpha != jp2.PREMULTIPLIED:
        return found
    if not header.whole or len(set(header.bits)) > 1 or channels > 4 or image.mode == "CMYK":
        if found.bits > 8:
            found.notes.append(read_with_8(found.bits))
        return found
    if header.space == jp2.YCC:
        raise PictureError("JPEG 2000 in YCbCr with more than 8 bits or odd alpha: convert it")
    check_size(image.width, image.height, 16)
    pixels = imagecodecs.jpeg2k_decode(data)
    pixels = _scaled(pixels, max(8, found.bits))
    if unstated:
        pixels = np.ascontiguousarray(pixels[..., :-1])
    elif header.alpha == jp2.PREMULTIPLIED:
        pixels = straight(pixels)
    found.pixels = pixels
    return found


UNSTATED = "its last channel is not marked as transparency and was left out"


def read_with_8(bits: int) -> str:
    """What a user is told where the rest of the bits are lost."""
    return f"read with 8 of its {bits} bits"


_PNM = re.compile(rb"P[36](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")


def _ppm(image: Image.Image, data: bytes) -> Stored:
    header = _PNM.match(data)
    if header is None or int(header[3]) < 256:
        return Stored()
    white = int(header[3])
    if data.startswith(b"P3") or white > 65535:
        return Stored(bits=white.bit_length(), notes=[read_with_8(white.bit_length())])
    check_size(image.width, image.height, 16)
    count = image.width * image.height * 3
    samples = np.frombuffer(data, ">u2", count, header.end()).reshape(image.height, -1, 3)
    if samples.max() > white:
        raise ValueError(f"values above {white}")
    scaled = np.rint(samples.astype(np.float32) * np.float32(65535) / np.float32(white))
    return Stored(scaled.astype(np.uint16), bits=white.bit_length())


def _webp(image: Image.Image, data: bytes) -> Stored:
    kinds = {data[b : b + 4] for b in _riff(data)}
    notes = [CREDENTIALS] if b"C2PA" in kinds else []
    return Stored(lossless=b"VP8L" in kinds and b"ANIM" not in kinds, notes=notes)


def _riff(data: bytes) -> list[int]:
    """Where the chunks of a WebP file begin."""
    places, place = [], 12
    while place + 8 <= len(data):
        places.append(place)
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return places


def _sgi(image: Image.Image, data: bytes) -> Stored:
    return Stored(bits=16, notes=[read_with_8(16)]) if data[3:4] == b"\2" else Stored()


def _dds(image: Image.Image, data: bytes) -> Stored:
    half = "BC6" in str(getattr(image, "pixel_format", ""))
    return Stored(bits=16, notes=[read_with_8(16)]) if half else Stored()


def _other(image: Image.Image, data: bytes) -> Stored:
    return Stored()


_READERS: dict[str, Callable[[Image.Image, bytes], Stored]] = {
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jxl,
    "JPEG2000": _jp2,
    "PPM": _ppm,
    "WEBP": _webp,
    "SGI": _sgi,
    "DDS": _dds,
}
