"""Picture files of any kind to arrays with their metadata, and back.

Pillow decodes and encodes all it can. It has no more than 8 bits for colours, so 16-bit PNG files
are read, and all are written, by imagecodecs (libpng); 16-bit and floating point TIFF files are
read by tifffile; and the writer of TIFF files, which keeps EXIF data too, is here.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import struct
import zlib
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import putchunk
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from moceir import machine
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
    can_be_rewritten,
    read,
    read_tiff,
)
from moceir.pictures.pixels import check_unit_range, image_of, pixels_of, to_8_bits

MAX_PIXELS = 10**9
"""A picture that claims more is taken for damaged or hostile."""

DEEP = {"PNG": ("uint16",), "TIFF": ("uint16", "float32")}
"""File formats that hold more than 8 bits, and which."""

_TURNS = {
    # EXIF orientation: turn counter-clockwise by so many quarters, then mirror left to right
    2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True),
    6: (3, False), 7: (1, True), 8: (1, False),
}  # fmt: skip

KEPT_BY_PIPES = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP")
"""Formats that go out of standard output as they came into standard input."""

_PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}


@dataclass
class Picture:
    """A decoded picture, upright."""

    pixels: np.ndarray
    """(H, W, C) uint8, uint16, or float32 in [0, 1]; C is 1 (grey), 2 (grey and alpha), 3 (RGB)
    or 4 (RGBA)."""
    format: str
    """Pillow's name of the file's format."""
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    """What a user should know about how it was read."""


@functools.cache
def formats() -> dict[str, str]:
    """Suffixes, with the dot and in lower case, to Pillow's names of the formats it can read or
    write here, with its plug-ins for HEIC and JPEG XL where these are installed."""
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    if importlib.util.find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401
    Image.init()
    return Image.EXTENSION


def writable(suffix: str) -> str:
    """Pillow's name of the format that files with this suffix are written in.

    Raises:
        PictureError: there is none.
    """
    name = formats().get(suffix.lower())
    if name not in Image.SAVE:
        plugin = _PLUGINS.get(suffix.lower())
        if plugin:
            raise PictureError(f"{suffix} files take a plug-in: pip install {plugin}")
        raise PictureError(f"no picture format is written as {suffix!r}; try .png (--ext png)")
    return name


def decode(data: bytes, name: str) -> Picture:
    """Decode a picture file; of several frames the first.

    Args:
        data: the whole file.
        name: what messages call it.

    Raises:
        PictureError: damaged, of an unknown kind, or too large for the memory there is.
    """
    formats()
    try:
        return _decode(data)
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        if not data:
            raise PictureError(f"{name}: the file is empty") from None
        raise PictureError(f"{name}: not a picture in a format that Pillow reads here") from None
    except MemoryError as error:
        raise PictureError(f"{name}: too little memory to decode it") from error
    except Exception as error:
        # Decoders of damaged files raise anything at all.
        reason = str(error) or type(error).__name__
        raise PictureError(f"{name}: cannot be read as a picture ({reason})") from error


def _decode(data: bytes) -> Picture:
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        deep = _decode_deep_tiff(data)
        if deep is not None:
            return deep
    with Image.open(BytesIO(data)) as image:
        is_deep_png = image.format == "PNG" and data[24:25] == b"\x10"
        _check_size(image.width, image.height, 16 if is_deep_png else 8)
        frames = getattr(image, "n_frames", 1)
        image.load()
        metadata, orientation, notes = read(image, data)
        if frames > 1:
            notes.append(f"the first of its {frames} frames")
        if is_deep_png:
            import imagecodecs

            pixels = imagecodecs.png_decode(_png_pixels(data))
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        else:
            pixels = pixels_of(image)
        if image.mode == "CMYK":
            notes.append("CMYK, converted to sRGB")
            metadata.icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        return Picture(_turn(pixels, orientation), image.format or "", metadata, notes)


def _png_pixels(data: bytes) -> bytes:
    """A PNG file without what is not about its pixels, of which libpng complains on standard
    error; Pillow has read that."""
    kept, place = [data[:8]], 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


def _decode_deep_tiff(data: bytes) -> Picture | None:
    """A TIFF file with more than 8 bits per sample; None if it has fewer."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # all it has to say is raised as well
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        bits = page.bitspersample
        # Pillow reads 16-bit CMYK, to 8 bits.
        if bits <= 8 or page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            return None
        _check_size(page.imagewidth, page.imagelength, bits)
        if page.dtype is None or page.dtype.name not in ("uint16", "float16", "float32", "float64"):
            raise PictureError(
                f"TIFF with {bits}-bit samples of type {page.dtype}: convert it to 16 bits"
            )
        if bits not in (16, 32, 64):
            raise PictureError(f"TIFF with {bits}-bit samples: convert it to 16 bits")
        kinds = tifffile.PHOTOMETRIC
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
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            pixels = pixels.transpose(1, 2, 0)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        frames = len(file.pages)
    if pixels.dtype.kind == "f":
        pixels = check_unit_range(pixels)
    if page.photometric == kinds.MINISWHITE:
        pixels = pixels.copy()
        white = 1 if pixels.dtype.kind == "f" else 65535
        pixels[..., 0] = white - pixels[..., 0]

    metadata, orientation, notes = read_tiff(data)
    if frames > 1:
        notes.append(f"the first of its {frames} frames")
    return Picture(_turn(pixels, orientation), "TIFF", metadata, notes)


def _check_size(width: int, height: int, bits: int) -> None:
    """Refuses what would not fit, before anything is allocated."""
    pixels = width * height
    if pixels < 1:
        raise PictureError(f"claims {width} x {height}: it has no pixels")
    if pixels > MAX_PIXELS:
        raise PictureError(
            f"claims {width} x {height} = {pixels / 1e6:,.0f} megapixels, more than the "
            f"{MAX_PIXELS / 1e6:,.0f} that are taken: cut it into parts"
        )
    need = pixels * 4 * -(-bits // 8) * 3  # as decoded, as an array, and restored
    available = machine.host_bytes() if need > machine.SMALL else None
    if available is not None and need > available:
        raise PictureError(
            f"{width} x {height} need {machine.readable(need)} of memory to be decoded, and "
            f"{machine.readable(available)} are free: cut it into parts"
        )


def _turn(pixels: np.ndarray, orientation: object) -> np.ndarray:
    if orientation not in _TURNS:
        return pixels
    quarters, mirrored = _TURNS[orientation]  # type: ignore[index]
    turned = np.rot90(pixels, quarters)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def encode(picture: Picture, file: BinaryIO, file_format: str, quality: int = 95) -> list[str]:
    """Write a picture in a format of ``writable``.

    Args:
        picture: its ``format`` is that of the file it came from.
        file: open for writing and seeking, empty.
        quality: 1 to 100, of formats that lose something (JPEG, WebP, AVIF, HEIC, JPEG XL).

    Returns:
        What could not be kept.

    Raises:
        PictureError: the format cannot hold such a picture.
        OSError: ``file`` cannot be written.
    """
    pixels, metadata, notes = picture.pixels, picture.metadata, []
    if pixels.dtype == np.float32 and file_format == "PNG":
        pixels = np.rint(pixels * np.float32(65535)).astype(np.uint16)
        notes.append("rounded to 16 bits, which is all that PNG holds")
    elif pixels.dtype.name not in (*DEEP.get(file_format, ()), "uint8"):
        pixels = to_8_bits(pixels)
        notes.append(f"rounded to 8 bits, which is all that {file_format} is written with")
    rewritten = metadata.exif and file_format in ("TIFF", "AVIF")
    if rewritten and not can_be_rewritten(metadata.exif):
        metadata = replace(metadata, exif=b"")
        notes.append("its EXIF data are damaged and were left out")
    try:
        if file_format == "TIFF":
            _write_tiff(pixels, metadata, file)
        elif file_format == "PNG":
            _write_png(pixels, metadata, file)
        else:
            notes += _write_with_pillow(pixels, metadata, file, file_format, quality)
    except Exception as error:
        # Encoders raise anything at all, at metadata that come from damaged files too.
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the format
            raise
        raise PictureError(
            f"cannot be written as {file_format} ({error}): choose .png or .tiff"
        ) from error
    return notes


def _write_png(pixels: np.ndarray, metadata: Metadata, file: BinaryIO) -> None:
    import imagecodecs

    encoded = imagecodecs.png_encode(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    header = 8 + 12 + 13  # the signature and the chunk IHDR, which must come first
    file.write(encoded[:header])
    for name, data in metadata.png_colour.items():
        if not (metadata.icc and name == b"sRGB"):  # one of the two is allowed
            putchunk(file, name, data)
    if metadata.icc:
        putchunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        x, y = (round(dpi / 0.0254) for dpi in metadata.dpi)
        putchunk(file, b"pHYs", struct.pack(">IIB", x, y, 1))
    if metadata.exif:
        putchunk(file, b"eXIf", metadata.exif)
    if metadata.xmp:
        putchunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    file.write(encoded[header:])


def _write_tiff(pixels: np.ndarray, metadata: Metadata, file: BinaryIO) -> None:
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


_WITH_METADATA = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JXL")
_JPEG_SEGMENT = 65533


def _write_with_pillow(
    pixels: np.ndarray, metadata: Metadata, file: BinaryIO, file_format: str, quality: int
) -> list[str]:
    notes = []
    if (
        file_format in ("JPEG", "MPO")
        and pixels.shape[2] in (2, 4)
        and (pixels[..., -1] == 255).all()
    ):
        pixels = pixels[..., :-1]  # nothing is transparent
    options: dict[str, Any] = {"quality": quality}
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    if file_format in _WITH_METADATA:
        held = {"exif": metadata.exif and b"Exif\0\0" + metadata.exif, "xmp": metadata.xmp}
        for name, data in held.items():
            if file_format in ("JPEG", "MPO") and len(data) + 29 > _JPEG_SEGMENT:
                notes.append(f"its {name.upper()} data are too long for JPEG and were left out")
            elif data:
                options[name] = data
        if metadata.icc and file_format == "JXL":
            notes.append("its colour profile was left out, which the JPEG XL plug-in cannot write")
        elif metadata.icc:
            options["icc_profile"] = metadata.icc
    elif metadata.exif or metadata.xmp or metadata.icc:
        notes.append(f"{file_format} holds no EXIF, XMP and ICC data: they were left out")
    if file_format in ("JPEG", "AVIF") and pixels.shape[2] >= 3:
        options["subsampling"] = "4:4:4"
    if file_format == "JPEG" and metadata.iptc:
        options["extra"] = b"\xff\xed" + struct.pack(">H", len(metadata.iptc) + 2) + metadata.iptc
    image_of(pixels).save(file, format=file_format, **options)
    return notes
