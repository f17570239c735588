"""TIFF files: what Pillow does not read of them, and how they are written."""

from __future__ import annotations

import logging
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from moceir.errors import PictureError
from moceir.pictures.metadata import (
    EXIF_TAGS,
    GPS_TAGS,
    ICC_TAG,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    XMP_TAG,
    Y_RESOLUTION,
    Metadata,
)
from moceir.pictures.pixels import check_size, check_unit_range

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_SUBFILE_TYPE, _DNG_VERSION = 254, 50706


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


def decode_deep(data: bytes) -> tuple[np.ndarray, int] | None:
    """The first picture of a TIFF file with more than 8 bits per sample, and how many there are;
    None if it has fewer bits.

    Returns:
        (H, W, C) uint16, or float32 in [0, 1], not turned yet.

    Raises:
        PictureError: a kind that is not read; camera raw, whatever its bits.
        Exception: damaged.
    """
    from tifffile import PHOTOMETRIC, PLANARCONFIG

    with _opened(BytesIO(data)) as file:
        page = file.pages.first
        _refuse_raw(data, page)
        bits = page.bitspersample
        # Pillow reads 16-bit CMYK, to 8 bits.
        if bits <= 8 or page.photometric == PHOTOMETRIC.SEPARATED:
            return None
        check_size(page.imagewidth, page.imagelength, bits)
        if page.dtype is None or page.dtype.name not in ("uint16", "float16", "float32", "float64"):
            raise PictureError(
                f"TIFF with {bits}-bit samples of type {page.dtype}: convert it to 16 bits"
            )
        if bits not in (16, 32, 64):
            raise PictureError(f"TIFF with {bits}-bit samples: convert it to 16 bits")
        kinds = PHOTOMETRIC
        if page.photometric not in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB):
            raise PictureError(
                f"{bits}-bit TIFF of the kind {page.photometric.name}: convert it to RGB"
            )
        colours = 3 if page.photometric == kinds.RGB else 1
        if page.samplesperpixel not in (colours, colours + 1):
            raise PictureError(f"TIFF with {page.samplesperpixel} samples per pixel")
        if page.imagedepth != 1:
            raise PictureError("TIFF of a volume: extract one plane")
        pixels = page.asarray()
        if page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            pixels = pixels.transpose(1, 2, 0)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        frames = len(file.pages)
    if pixels.dtype.kind == "f":
        pixels = check_unit_range(pixels)
    if page.photometric == kinds.MINISWHITE:
        pixels = pixels.copy()
        white = 1 if pixels.dtype.kind == "f" else 65535
        pixels[..., 0] = white - pixels[..., 0]
    return pixels, frames


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
        for tag in exif:
            tags[tag] = exif.get_ifd(tag) if tag in (EXIF_TAGS, GPS_TAGS) else exif[tag]
    if metadata.dpi and X_RESOLUTION not in tags:
        tags[X_RESOLUTION], tags[Y_RESOLUTION] = metadata.dpi
        tags[RESOLUTION_UNIT] = 2
    if metadata.xmp:
        tags[XMP_TAG] = metadata.xmp
    if metadata.icc:
        tags[ICC_TAG] = metadata.icc
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
