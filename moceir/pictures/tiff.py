"""TIFF files: what Pillow does not read of them, and how they are written."""

from __future__ import annotations

import logging
import math
import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from moceir.errors import PictureError
from moceir.pictures import stale
from moceir.pictures.metadata import (
    EXIF_TAGS,
    GPS_TAGS,
    ICC_TAG,
    IPTC_TAG,
    ORIENTATION,
    PHOTOSHOP_TAG,
    RESOLUTION_UNIT,
    STRUCTURE,
    X_RESOLUTION,
    XMP_TAG,
    Y_RESOLUTION,
    Metadata,
    read_tiff,
)
from moceir.pictures.pixels import check_size, check_unit_range, levels, straight

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_NOT_BY_PILLOW = b"MM\0+"  # BigTIFF, big endian
_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
_MULTIPLIED, _STRAIGHT, _COREL = 1, 2, 999


def _opened(file: BinaryIO) -> TiffFile:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # all it has to say is raised as well
    return tifffile.TiffFile(file)


def size_of(file: BinaryIO) -> tuple[int, int]:
    """Width and height by the header; damaged files raise anything at all."""
    with _opened(file) as tiff:
        page = tiff.pages.first
        return page.imagewidth, page.imagelength


def _refuse_raw(data: bytes, page: TiffPage) -> None:
    """What cameras write are TIFF files whose first picture is a small preview."""
    reduced = page.tags.valueof(_SUBFILE_TYPE, 0) & 1
    if reduced or _DNG_VERSION in page.tags or data[8:10] == b"CR":
        raise PictureError(
            "camera raw, or a TIFF file that begins with a preview: develop it and save it as a "
            "16-bit TIFF file first"
        )


@dataclass
class Stored:
    """What a TIFF file has that Pillow does not tell."""

    pixels: np.ndarray | None
    """(H, W, C) uint8, uint16, or float32 in [0, 1], not turned yet; None: Pillow reads it."""
    frames: int = 1
    notes: list[str] = field(default_factory=list)


def read(data: bytes) -> Stored:
    """The first picture of a TIFF file if Pillow does not read it, or not all its bits, and what
    Pillow leaves out of others.

    Raises:
        PictureError: a kind that is not read; camera raw, whatever its bits.
        Exception: damaged.
    """
    from tifffile import PHOTOMETRIC

    with _opened(BytesIO(data)) as file:
        page = file.pages.first
        _refuse_raw(data, page)
        bits, cmyk = page.bitspersample, page.photometric == PHOTOMETRIC.SEPARATED
        if (bits <= 8 or cmyk) and not data.startswith(_NOT_BY_PILLOW):  # 16-bit CMYK to 8 bits
            colours = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.SEPARATED: 4, PHOTOMETRIC.YCBCR: 3}
            others = page.samplesperpixel - colours.get(page.photometric, 1)
            kept = others > 0 and not cmyk and _alpha(page) is not None
            notes = [f"read with 8 of its {bits} bits"] if bits > 8 else []
            return Stored(None, _pages(file, data), notes + _left_out(others - kept))
        return _deep(page, _pages(file, data))


def _pages(file: TiffFile, data: bytes) -> int:
    """How many there are. Each says where the next one is; if that is one from before, tifffile
    counts on for ever, and Pillow takes time that grows with the square of the number."""
    layout, place, places = file.tiff, file.pages.first.offset, set[int]()
    while place and place not in places and place + layout.tagnosize <= len(data):
        places.add(place)
        (tags,) = struct.unpack_from(layout.tagnoformat, data, place)
        after = place + layout.tagnosize + tags * layout.tagsize
        if after + layout.offsetsize > len(data):
            break
        (place,) = struct.unpack_from(layout.offsetformat, data, after)
    return len(places)


def read_metadata(data: bytes) -> tuple[Metadata, int, list[str]]:
    """``metadata.read_tiff``, and what it leaves: Pillow takes the tags of a big-endian BigTIFF
    file for others."""
    if not data.startswith(_NOT_BY_PILLOW):
        return read_tiff(data)
    with _opened(BytesIO(data)) as file:
        tags = file.pages.first.tags
        xmp, notes = stale.corrected_xmp(bytes(tags.valueof(XMP_TAG, b"")))
        metadata = Metadata(xmp=xmp, icc=bytes(tags.valueof(ICC_TAG, b"")))
        notes.append("its tags other than ICC profile and XMP were left out (big-endian BigTIFF)")
        return metadata, tags.valueof(ORIENTATION, 1), notes


def _alpha(page: TiffPage) -> int | None:
    """What the first channel after the colours is: 1, alpha that is multiplied into the colours,
    2, alpha that is not; None: something else. Where nothing is said, all take it for alpha."""
    kind = int(page.extrasamples[0]) if page.extrasamples else _STRAIGHT
    if kind == _COREL:
        return _STRAIGHT
    return kind if kind in (_MULTIPLIED, _STRAIGHT) else None


def _left_out(channels: int) -> list[str]:
    if channels < 1:
        return []
    if channels == 1:
        return ["its last channel is not marked as transparency and was left out"]
    return [f"its last {channels} channels are not marked as transparency and were left out"]


def _deep(page: TiffPage, frames: int) -> Stored:
    from tifffile import PHOTOMETRIC, PLANARCONFIG

    bits = page.bitspersample
    check_size(page.imagewidth, page.imagelength, bits)
    if page.dtype is None or page.dtype.name not in _TYPES:
        raise PictureError(
            f"TIFF with {bits}-bit samples of type {page.dtype}: convert it to unsigned 16 bits"
        )
    if bits not in (8, 16, 32, 64):
        raise PictureError(f"TIFF with {bits}-bit samples: convert it to 16 bits")
    kinds = PHOTOMETRIC
    if page.photometric not in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB):
        raise PictureError(
            f"{bits}-bit TIFF of the kind {kinds(page.photometric).name}: convert it to RGB"
        )
    colours, samples = 3 if page.photometric == kinds.RGB else 1, page.samplesperpixel
    if samples < colours or samples > 16:
        raise PictureError(f"TIFF with {samples} samples per pixel")
    if page.imagedepth != 1:
        raise PictureError("TIFF of a volume: extract one plane")
    strips = math.prod(page.chunked)
    if len(page.dataoffsets) < strips:  # tifffile would fill gigabytes with nothing
        raise ValueError(f"{len(page.dataoffsets)} of its {strips} strips or tiles are there")
    pixels = page.asarray()
    if page.planarconfig == PLANARCONFIG.SEPARATE and samples > 1:
        pixels = pixels.transpose(1, 2, 0)
    pixels = pixels.reshape(page.imagelength, page.imagewidth, samples)
    alpha = _alpha(page) if samples > colours else None
    kept = colours + (alpha is not None)
    if kept < samples:
        pixels = np.ascontiguousarray(pixels[..., :kept])
    if pixels.dtype.kind == "f":
        pixels = check_unit_range(pixels)
    if page.photometric == kinds.MINISWHITE:
        pixels = pixels.copy()
        pixels[..., 0] = levels(pixels.dtype) - pixels[..., 0]
    if alpha == _MULTIPLIED:
        pixels = straight(pixels)
    return Stored(pixels, frames, _left_out(samples - kept))


def write(pixels: np.ndarray, metadata: Metadata, file: BinaryIO) -> None:
    """Deflate, with horizontal differences for whole numbers; strips of about 1 MB."""
    height, width, channels = pixels.shape
    whole = pixels.dtype.kind == "u"
    rows = max(1, 2**20 // (width * channels * pixels.itemsize))
    strips = []
    for top in range(0, height, rows):
        strip = pixels[top : top + rows].astype(pixels.dtype.newbyteorder("<"))
        if whole:
            strip[:, 1:] -= strip[:, :-1].copy()  # wraps around, as it should
        strips.append(zlib.compress(strip.tobytes()))
    sizes = [len(strip) for strip in strips]
    if sum(sizes) > 2**32 - 2**24:
        raise ValueError("a TIFF file ends at 4 GB")

    tags = ImageFileDirectory_v2(prefix=b"II")
    if metadata.exif:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag in set(exif) - STRUCTURE:
            tags[tag] = exif.get_ifd(tag) if tag in (EXIF_TAGS, GPS_TAGS) else exif[tag]
    if metadata.dpi and X_RESOLUTION not in tags:
        tags[X_RESOLUTION], tags[Y_RESOLUTION] = metadata.dpi
        tags[RESOLUTION_UNIT] = 2
    if metadata.xmp:
        tags[XMP_TAG] = metadata.xmp
    if metadata.icc:
        tags[ICC_TAG] = metadata.icc
    if metadata.photoshop:
        tags[PHOTOSHOP_TAG] = metadata.photoshop
        captions = stale.captions(metadata.photoshop)
        if captions:
            tags.tagtype[IPTC_TAG] = 7
            tags[IPTC_TAG] = captions
    tags[256], tags[257] = width, height
    tags[258] = (pixels.itemsize * 8,) * channels
    tags[259] = 8  # Deflate
    tags[262] = 2 if channels >= 3 else 1  # RGB, or grey with black as 0
    tags[273] = tuple(sum(sizes[:i]) for i in range(len(sizes)))  # the directory's end is added
    tags[274] = 1  # upright
    tags[277], tags[278], tags[279] = channels, rows, tuple(sizes)
    tags[284] = 1  # the channels of a pixel together
    if whole:
        tags[317] = 2  # differences
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied into the colours
    tags[339] = (1 if whole else 3,) * channels
    tags.save(file)
    file.writelines(strips)
