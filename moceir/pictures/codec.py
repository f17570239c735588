"""Picture files of any kind to arrays with their metadata, and back.

Everything that reads or writes pictures does it here, so that a file means the same pixels
everywhere. Pillow decodes and encodes all it can. It has no more than 8 bits for colours: deeper
pixels are read by imagecodecs, tifffile and pillow-heif (``deep``, ``tiff``) and written by them
(``encoders``, ``tiff``, ``png``).
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
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from moceir import machine
from moceir.errors import PictureError
from moceir.files import make_folder, whole_file
from moceir.pictures import colour, deep, encoders, png, stale, tiff
from moceir.pictures.metadata import Metadata, can_be_rewritten
from moceir.pictures.metadata import read as read_metadata
from moceir.pictures.pixels import check_size, image_of, pixels_of
from moceir.pictures.remote import Remote

_TURNS = {
    # EXIF orientation: turn counter-clockwise by so many quarters, then mirror left to right
    2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True),
    6: (3, False), 7: (1, True), 8: (1, False),
}  # fmt: skip

KEPT_BY_PIPES = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP")
"""Formats that go out of standard output as they came into standard input."""

_NEVER_READ = ("EPS",)
"""Programs rather than pictures: Pillow would run Ghostscript with them."""

_VIDEOS = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1")
"""How their files begin."""

_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv")

_NO_VIDEO = "a video: save its frames as images first, for example with ffmpeg"

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
    bits: int = 8
    """Of the samples in its file."""
    lossless: bool = False
    """It comes without loss from a format that may lose something."""
    frames: int = 1
    """How many the file has, of which this is the first."""
    source: os.stat_result | None = None
    """Of the file that it was read from."""
    content: bytes | None = field(default=None, repr=False)
    """Of that file, if it was to be kept. It is written instead of the pixels."""


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
    if name not in Image.SAVE or name not in encoders.WRITTEN:
        plugin = _PLUGINS.get(suffix.lower())
        if plugin:
            raise PictureError(f"{suffix} files need a plug-in: pip install {plugin}")
        if suffix.lower() in _VIDEO_SUFFIXES:
            raise PictureError(_NO_VIDEO)
        raise PictureError(f"no image format is written as {suffix!r}: name the result .png", "ext")
    return name


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns whatever decoders raise into a PictureError that names the picture."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        raise PictureError(f"{name}: not an image in a format that Pillow reads here") from None
    except MemoryError as error:
        raise PictureError(f"{name}: too little memory to decode it") from error
    except ModuleNotFoundError as error:
        raise PictureError(f"{name}: to read it, pip install {error.name}") from error
    except Exception as error:
        # Decoders of damaged files raise anything at all.
        if isinstance(error, OSError) and error.strerror:  # of the file, not of what is in it
            raise PictureError(f"{name}: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{name}: cannot be read as an image ({reason})") from error


def is_same(read: str, written: str) -> bool:
    """Whether a file of the format that was read can stay as it is where ``written`` is wanted."""
    return read == written or (read, written) == ("MPO", "JPEG")  # JPEGs, one after the other


def read(path: Path | Remote, name: str | None = None, keep: bool = False) -> Picture:
    """Decode a picture file.

    Args:
        path: of a regular file, or a URL.
        name: what messages call it; None: its path.
        keep: also store the file's bytes in ``Picture.content``.

    Raises:
        PictureError: as ``decode``, or the file itself cannot be read.
    """
    name = str(path) if name is None else name
    with _named(name):
        if isinstance(path, Remote):
            data, status = path.read_bytes(), None
        else:
            status = path.stat()
            _check_file(status)
            data = path.read_bytes()
    return replace(decode(data, name, keep), source=status)


def _check_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise PictureError("a folder: name an image file")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("not a file: copy what it holds to one first")
    available = machine.host_bytes() if status.st_size > machine.SMALL else None
    if available is not None and status.st_size > available:
        raise PictureError(
            f"a file of {machine.readable(status.st_size)}, and "
            f"{machine.readable(available)} of memory are free"
        )


def size_of(path: Path) -> tuple[int, int]:
    """Width and height by the file's header, before EXIF turns it upright.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    with _named(str(path)), open(path, "rb") as file:
        return _size_of(file)


def size_in(data: bytes, name: str) -> tuple[int, int]:
    """``size_of`` of a file's content, which messages call ``name``."""
    with _named(name):
        return _size_of(BytesIO(data))


def _size_of(file: BinaryIO) -> tuple[int, int]:
    head = file.read(24)
    file.seek(0)
    if not head:
        raise PictureError("the file is empty")
    if head.startswith(png.SIGNATURE) and len(head) == 24:
        return struct.unpack_from(">II", head, 16)
    if head[:4] in tiff.SIGNATURES:
        return tiff.size_of(file)
    with _open(file) as image:
        return image.size


def decode(data: bytes, name: str, keep: bool = False) -> Picture:
    """Decode a picture file; of several frames the first.

    Args:
        data: the whole file.
        name: what messages call it.
        keep: also store them in ``Picture.content``.

    Raises:
        PictureError: damaged, of an unknown kind, or too large for the memory there is.
    """
    with _named(name):
        if not data:
            raise PictureError("the file is empty")
        picture = _decode(data)
    return replace(picture, content=data) if keep else picture


def picture_of(image: Image.Image) -> Picture:
    """A PIL image with the metadata it carries, upright; it stays as it is.

    Raises:
        PictureError: it cannot be loaded, has a mode with no meaning here, or values out of range.
    """
    with _named("the image"):
        image.load()
        return _picture_of(image, b"", deep.Stored())


def pillow_of(picture: Picture) -> Image.Image:
    """A PIL image, whose ``info`` has the metadata under the names of what Pillow's ``save``
    takes. Pillow has more than 8 bits for grey alone: other pixels are rounded.

    Raises:
        PictureError: its colours are such as no ICC profile describes (PQ, HLG).
    """
    pixels, metadata, _ = colour.described(picture.pixels, picture.metadata, "TIFF")
    image = image_of(pixels)
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
        try:
            accepted = accept(prefix) if accept else True
            if isinstance(accepted, str) or not accepted:
                continue
            if name in _NEVER_READ:
                raise PictureError(f"{name}, which is a program: convert it to PNG")
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # another format that begins so
    if _is_video(prefix):
        raise PictureError(_NO_VIDEO)
    raise UnidentifiedImageError


def _is_video(head: bytes) -> bool:
    """By its first 12 bytes: MP4 and QuickTime, Matroska and WebM, AVI, MPEG, FLV."""
    if head[4:8] == b"ftyp":  # of HEIC and AVIF, too
        return head[8:12].startswith((b"iso", b"mp4", b"M4V", b"qt", b"avc", b"3g", b"dash"))
    return head[:4] in _VIDEOS or head[:4] + head[8:12] == b"RIFFAVI "


def _decode(data: bytes) -> Picture:
    stored = deep.Stored()
    frames = None
    if data[:4] in tiff.SIGNATURES:
        found = tiff.read(data)
        if found.pixels is not None:
            metadata, orientation, notes = tiff.read_metadata(data)
            notes = [*found.notes, *notes, *_of_frames(found.frames)]
            return _upright(found.pixels, orientation, "TIFF", metadata, notes, found.frames)
        stored.notes, frames = found.notes, found.frames
    is_png = data.startswith(png.SIGNATURE)
    is_deep_png = is_png and data[24:25] == b"\x10"
    with _open(BytesIO(png.without_text(data) if is_png else data)) as image:
        check_size(image.width, image.height, 16 if is_deep_png else 8)
        if frames is None:
            frames = getattr(image, "n_frames", 1)
        image.load()
        if is_deep_png:
            import imagecodecs

            pixels = imagecodecs.png_decode(png.pixels_only(data))
            stored = deep.Stored(pixels[..., None] if pixels.ndim == 2 else pixels, 16)
        elif not stored.notes:
            stored = deep.read(image, data)
        if is_png:
            stored.metadata, more = png.read(data)
            stored.notes += more
        picture = _picture_of(image, data, stored)
        picture.notes += _of_frames(frames)
        return replace(picture, frames=frames)


def _of_frames(number: int) -> list[str]:
    return [f"the first of its {number} frames"] if number > 1 else []


def _picture_of(image: Image.Image, data: bytes, stored: deep.Stored) -> Picture:
    """A loaded image with what Pillow does not tell about it."""
    held = stored.metadata
    for name, value in (("icc_profile", held.icc), ("xmp", held.xmp), ("exif", held.exif)):
        if value:
            image.info.setdefault(name, value)
    metadata, orientation, notes = read_metadata(image, data)
    notes = [*stored.notes, *(note for note in notes if note not in stored.notes)]
    metadata.png_colour, metadata.png_text = held.png_colour, held.png_text
    nclx = image.info.get("nclx_profile")  # of pillow-heif
    if nclx:
        numbers = nclx["color_primaries"], nclx["transfer_characteristics"]
        held.cicp = colour.code_points(*numbers)
    if held.cicp and not (metadata.icc and image.format in ("AVIF", "HEIF")):
        metadata.cicp = held.cicp  # there a profile counts more
    if stored.pixels is not None:
        pixels = stored.pixels
    else:
        pixels = pixels_of(image)
        if image.mode == "CMYK":
            notes.append("CMYK, converted to sRGB")
            metadata.icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
            metadata.exif = stale.of_srgb(metadata.exif)
    picture = _upright(pixels, orientation, image.format or "", metadata, notes)
    bits = picture.bits if stored.pixels is None else stored.bits
    return replace(picture, bits=bits, lossless=stored.lossless)


def _upright(
    pixels: np.ndarray,
    orientation: object,
    file_format: str,
    metadata: Metadata,
    notes: list[str],
    frames: int = 1,
) -> Picture:
    pixels = _turn(pixels, orientation)
    metadata.exif = stale.sized(metadata.exif, pixels.shape[1], pixels.shape[0])
    bits = pixels.itemsize * 8
    return Picture(pixels, file_format, metadata, notes, bits=bits, frames=frames)


def _turn(pixels: np.ndarray, orientation: object) -> np.ndarray:
    if orientation not in _TURNS:
        return pixels
    quarters, mirrored = _TURNS[orientation]  # type: ignore[index]
    turned = np.rot90(pixels, quarters)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def encode(
    picture: Picture, file: BinaryIO, file_format: str, quality: int | None = None
) -> list[str]:
    """Write a picture in a format of ``writable``.

    Args:
        picture: its ``format`` is that of the file it came from. If it has kept the ``content`` of
            that, this is what is written, and ``file_format`` has to be the same (``is_same``).
        file: open for writing.
        quality: 1 to 100, of formats that lose something (JPEG, WebP, AVIF, HEIC, JPEG XL); at 100
            AVIF and JPEG XL lose nothing. None: 95, but without loss for a picture that came so,
            where the format can.

    Returns:
        What could not be kept.

    Raises:
        PictureError: the format cannot hold such a picture.
        OSError: ``file`` cannot be written.
    """
    if picture.content is not None:
        file.write(picture.content)
        return []
    pixels, metadata, notes = colour.described(picture.pixels, picture.metadata, file_format)
    pixels, bits, said = encoders.of_depth(pixels, picture.bits, file_format)
    notes += said
    pixels, said = encoders.of_channels(pixels, file_format)
    notes += said
    if metadata.exif and file_format == "TIFF" and not can_be_rewritten(metadata.exif):
        metadata = replace(metadata, exif=b"")
        notes.append("its EXIF data are damaged and were left out")
    notes += encoders.left_out(metadata, file_format)
    lossless = quality == 100 and file_format in ("AVIF", "JXL")  # as their encoders have it
    lossless |= picture.lossless and quality is None and file_format in encoders.LOSSLESS
    wanted = encoders.Wanted(pixels, metadata, bits, quality or 95, lossless)
    encoded = BytesIO()  # Pillow takes a disk that is full for one that has written all
    try:
        if file_format == "TIFF":
            tiff.write(pixels, metadata, encoded)
        elif file_format == "PNG":
            png.write(pixels, metadata, encoded)
        else:
            notes += encoders.write(wanted, encoded, file_format)
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


def write(
    picture: Picture, path: Path | Remote, quality: int | None = None, overwrite: bool = True
) -> list[str]:
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
    if isinstance(path, Remote):
        path.write_bytes(encoded.getvalue(), overwrite)
        return notes
    make_folder(path.parent)
    with whole_file(path, overwrite, picture.source) as temporary:
        temporary.write_bytes(encoded.getbuffer())
    return notes
