"""Picture files of any kind to arrays with their metadata, and back.

Everything that reads or writes pictures does it here, so that a file means the same pixels
everywhere. Pillow decodes and encodes all it can. It has no more than 8 bits for colours, so 16-bit
PNG files are read, and all are written, by imagecodecs (libpng); 16-bit and floating point TIFF
files are read by tifffile.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from moceir import machine
from moceir.errors import PictureError
from moceir.files import whole_file
from moceir.pictures import png, tiff
from moceir.pictures.metadata import Metadata, can_be_rewritten, read_tiff
from moceir.pictures.metadata import read as read_metadata
from moceir.pictures.pixels import check_size, image_of, pixels_of, to_8_bits

DEEP = {"PNG": ("uint16",), "TIFF": ("uint16", "float32")}
"""File formats that hold more than 8 bits, and which."""

_TURNS = {
    # EXIF orientation: turn counter-clockwise by so many quarters, then mirror left to right
    2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True),
    6: (3, False), 7: (1, True), 8: (1, False),
}  # fmt: skip

KEPT_BY_PIPES = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP")
"""Formats that go out of standard output as they came into standard input."""

_NEVER_READ = ("EPS",)
"""Programs rather than pictures: Pillow would run Ghostscript with them."""

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
    frames: int = 1
    """How many the file has, of which this is the first."""
    source: os.stat_result | None = None
    """Of the file that it was read from."""


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


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns whatever decoders raise into a PictureError that names the picture."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        raise PictureError(f"{name}: not a picture in a format that Pillow reads here") from None
    except MemoryError as error:
        raise PictureError(f"{name}: too little memory to decode it") from error
    except ModuleNotFoundError as error:
        raise PictureError(f"{name}: to read it, pip install {error.name}") from error
    except Exception as error:
        # Decoders of damaged files raise anything at all.
        if isinstance(error, OSError) and error.strerror:  # of the file, not of what is in it
            raise PictureError(f"{name}: {error.strerror}") from error
        reason = str(error) or type(error).__name__
        raise PictureError(f"{name}: cannot be read as a picture ({reason})") from error


def read(path: Path, name: str | None = None) -> Picture:
    """Decode a picture file.

    Args:
        path: of a regular file.
        name: what messages call it; None: its path.

    Raises:
        PictureError: as ``decode``, or the file itself cannot be read.
    """
    name = str(path) if name is None else name
    with _named(name):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("not a file; pipe it into moceir restore and give - instead")
        available = machine.host_bytes() if status.st_size > machine.SMALL else None
        if available is not None and status.st_size > available:
            raise PictureError(
                f"a file of {machine.readable(status.st_size)}, and "
                f"{machine.readable(available)} of memory are free"
            )
        data = path.read_bytes()
    return replace(decode(data, name), source=status)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height by the file's header, before EXIF turns it upright.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    with _named(str(path)), open(path, "rb") as file:
        head = file.read(24)
        file.seek(0)
        if head.startswith(png.SIGNATURE) and len(head) == 24:
            return struct.unpack_from(">II", head, 16)
        if head[:4] in tiff.SIGNATURES:
            return tiff.size_of(file)
        with _open(file) as image:
            return image.size


def decode(data: bytes, name: str) -> Picture:
    """Decode a picture file; of several frames the first.

    Args:
        data: the whole file.
        name: what messages call it.

    Raises:
        PictureError: damaged, of an unknown kind, or too large for the memory there is.
    """
    with _named(name):
        if not data:
            raise PictureError("the file is empty")
        return _decode(data)


def picture_of(image: Image.Image) -> Picture:
    """A PIL image with the metadata it carries, upright; it stays as it is.

    Raises:
        PictureError: it cannot be loaded, has a mode with no meaning here, or values out of range.
    """
    with _named("the image"):
        image.load()
        return _picture_of(image, *read_metadata(image))


def pillow_of(picture: Picture) -> Image.Image:
    """A PIL image, whose ``info`` has the metadata under the names of what Pillow's ``save``
    takes. Pillow has more than 8 bits for grey alone: other pixels are rounded."""
    image, metadata = image_of(picture.pixels), picture.metadata
    held = {
        "icc_profile": metadata.icc,
        "exif": metadata.exif and b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
        "dpi": metadata.dpi,
    }
    image.info.update({name: value for name, value in held.items() if value})
    return image


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    """``Image.open`` without its limit of pixels, which is for a program to set, not for a
    library (ours is MAX_PIXELS), and without formats that are programs."""
    formats()
    file.seek(0)
    prefix = file.read(16)
    for name in Image.ID:
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else True
        if isinstance(accepted, str) or not accepted:
            continue
        if name in _NEVER_READ:
            raise PictureError(f"{name}, which is a program: convert it to PNG")
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # another format that begins so
    raise UnidentifiedImageError


def _decode(data: bytes) -> Picture:
    if data[:4] in tiff.SIGNATURES:
        deep = tiff.decode_deep(data)
        if deep is not None:
            stored, frames = deep
            metadata, orientation, notes = read_tiff(data)
            if frames > 1:
                notes.append(f"the first of its {frames} frames")
            return Picture(_turn(stored, orientation), "TIFF", metadata, notes, frames)
    is_png = data.startswith(png.SIGNATURE)
    is_deep_png = is_png and data[24:25] == b"\x10"
    with _open(BytesIO(png.without_text(data) if is_png else data)) as image:
        check_size(image.width, image.height, 16 if is_deep_png else 8)
        frames = getattr(image, "n_frames", 1)
        image.load()
        if is_png:
            metadata, orientation, notes = _png_metadata(image, data)
        else:
            metadata, orientation, notes = read_metadata(image, data)
        if frames > 1:
            notes.append(f"the first of its {frames} frames")
        pixels: np.ndarray | None = None
        if is_deep_png:
            import imagecodecs

            pixels = imagecodecs.png_decode(png.pixels_only(data))
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        picture = _picture_of(image, metadata, orientation, notes, pixels)
        return replace(picture, frames=frames)


def _png_metadata(image: Image.Image, data: bytes) -> tuple[Metadata, int, list[str]]:
    """What Pillow has read, and what has been kept from it."""
    found, left_out = png.read(data)
    held = {"icc_profile": found.icc, "xmp": found.xmp, "exif": found.exif}
    for name, value in held.items():
        if value:
            image.info.setdefault(name, value)
    metadata, orientation, notes = read_metadata(image)
    metadata.png_colour, metadata.png_text = found.png_colour, found.png_text
    return metadata, orientation, left_out + notes


def _picture_of(
    image: Image.Image,
    metadata: Metadata,
    orientation: int,
    notes: list[str],
    pixels: np.ndarray | None = None,
) -> Picture:
    """A loaded image with what is known about it; pixels: instead of its own."""
    pixels = pixels_of(image) if pixels is None else pixels
    if image.mode == "CMYK":
        notes.append("CMYK, converted to sRGB")
        metadata.icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return Picture(_turn(pixels, orientation), image.format or "", metadata, notes)


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
        file: open for writing.
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
    if file_format == "GIF" and pixels.shape[2] >= 3:
        notes.append("reduced to 256 colours, which is all that GIF holds")
    rewritten = metadata.exif and file_format in ("TIFF", "AVIF")
    if rewritten and not can_be_rewritten(metadata.exif):
        metadata = replace(metadata, exif=b"")
        notes.append("its EXIF data are damaged and were left out")
    notes += _left_out(metadata, file_format)
    encoded = BytesIO()  # Pillow takes a disk that is full for one that has written all
    try:
        if file_format == "TIFF":
            tiff.write(pixels, metadata, encoded)
        elif file_format == "PNG":
            png.write(pixels, metadata, encoded)
        else:
            notes += _write_with_pillow(pixels, metadata, encoded, file_format, quality)
    except ModuleNotFoundError as error:
        raise PictureError(
            f"{file_format} is written by {error.name}: pip install {error.name}"
        ) from error
    except Exception as error:
        # Encoders raise anything at all, at metadata that come from damaged files too.
        raise PictureError(
            f"cannot be written as {file_format} ({error}): choose .png or .tiff"
        ) from error
    file.write(encoded.getbuffer())
    return notes


def write(picture: Picture, path: Path, quality: int = 95, overwrite: bool = True) -> list[str]:
    """Write a picture file whole or not at all, in the format of its suffix; its folder is made.
    It has no rights that the picture's own file does not have, and the date of that.

    Returns:
        What could not be kept.

    Raises:
        PictureError: there is no such format, or it cannot hold such a picture.
        OSError: the file cannot be written.
    """
    try:
        encoded = BytesIO()
        notes = encode(picture, encoded, writable(path.suffix), quality)
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, overwrite, picture.source) as temporary:
        temporary.write_bytes(encoded.getbuffer())
    return notes


def _left_out(metadata: Metadata, file_format: str) -> list[str]:
    """What only the format that it comes from can hold."""
    lost = []
    if metadata.png_text and file_format != "PNG":
        lost.append(f"texts of PNG ({png.keywords(metadata.png_text)})")
    if file_format not in _JPEGS:
        if any(b"8BIM\x04\x04" in segment for segment in metadata.iptc):
            lost.append("IPTC captions")
        if metadata.comment:
            lost.append("JPEG comment")
    if not lost:
        return []
    return [f"its {' and '.join(lost)} were left out, which {file_format} has no place for"]


_JPEGS = ("JPEG", "MPO")
_WITH_METADATA = (*_JPEGS, "WEBP", "AVIF", "HEIF", "JXL")
_JPEG_SEGMENT = 65533


def _write_with_pillow(
    pixels: np.ndarray, metadata: Metadata, file: BinaryIO, file_format: str, quality: int
) -> list[str]:
    notes = []
    if file_format in _JPEGS and pixels.shape[2] in (2, 4) and (pixels[..., -1] == 255).all():
        pixels = pixels[..., :-1]  # nothing is transparent
    options: dict[str, Any] = {"quality": quality}
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    if file_format in _WITH_METADATA:
        held = {"exif": metadata.exif and b"Exif\0\0" + metadata.exif, "xmp": metadata.xmp}
        for name, data in held.items():
            if file_format in _JPEGS and len(data) + 29 > _JPEG_SEGMENT:
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
    if file_format in _JPEGS:
        options["extra"] = b"".join(
            b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment for segment in metadata.iptc
        )
        if metadata.comment:
            options["comment"] = metadata.comment
    image_of(pixels).save(file, format=file_format, **options)
    return notes
