"""What a PNG file says beside its pixels, read and written chunk by chunk.

Pillow refuses a whole picture for a text or a profile of more than 1 MB, and libpng complains on
standard error of what it does not like: both are given the rest of the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL.PngImagePlugin import putchunk

from moceir.pictures.metadata import Metadata
from moceir.pictures.stale import png_notes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_INFLATED = 2**26
"""Bytes that a compressed profile or text may have; more is taken for hostile."""

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
# What another reads, or tells: resolution, EXIF, frames; and significant bits, which are all now.
_ELSEWHERE = (b"pHYs", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"sBIT")
_XMP = b"XML:com.adobe.xmp"
_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk, where it begins and where the next one does."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        yield name, place, min(place + 12 + length, len(data))
        place += 12 + length


def pixels_only(data: bytes) -> bytes:
    """The file without all that is not about its pixels."""
    kept = [data[start:end] for name, start, end in _chunks(data) if name in _PIXELS]
    return b"".join([data[: len(SIGNATURE)], *kept])


def without_text(data: bytes) -> bytes:
    """The file without its texts and its colour profile."""
    dropped = (*_TEXT, b"iCCP")
    chunks = list(_chunks(data))
    if not any(name in dropped for name, _, _ in chunks):
        return data
    end = chunks[-1][2]
    kept = [data[start:end] for name, start, end in chunks if name not in dropped]
    return b"".join([data[: len(SIGNATURE)], *kept, data[end:]])


def read(data: bytes) -> tuple[Metadata, list[str]]:
    """Profile, texts and colour of a file, damaged or not, and what had to be left out. Its EXIF
    data are for Pillow to read, but for those that old versions of ImageMagick put in a text."""
    metadata, notes, others = Metadata(), [], []
    for name, start, end in _chunks(data):
        if name not in (*_COLOUR, *_TEXT, b"iCCP"):
            others += [name] if name not in (*_PIXELS, *_ELSEWHERE) else []
            continue
        body = data[start + 8 : end - 4]
        try:
            if name == b"cICP" and len(body) == 4 and body[2:] == b"\0\1" and 2 not in body:
                metadata.cicp = (body[0], body[1])
            elif name in _COLOUR:
                metadata.png_colour.setdefault(name, body)
            elif name == b"iCCP":
                metadata.icc = _inflated(body[body.index(b"\0") + 2 :])
            else:
                keyword = body.split(b"\0", 1)[0]
                if keyword == _XMP:
                    metadata.xmp = _text(name, body)
                elif keyword in _EXIF:
                    lines = _text(name, body).split(b"\n", 3)
                    metadata.exif = bytes.fromhex(lines[3].decode())
                else:
                    metadata.png_text.append((name, body))
        except (ValueError, IndexError, zlib.error):
            what = "colour profile" if name == b"iCCP" else "XMP or EXIF text"
            notes.append(f"its {what} is damaged or too long and was left out")
    return metadata, notes + png_notes(others)


def _inflated(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    plain = inflate.decompress(data, MAX_INFLATED)
    if not inflate.eof:
        raise ValueError("cut or too long")
    return plain


def _text(name: bytes, body: bytes) -> bytes:
    """What a text chunk says, without its keyword."""
    text = body.split(b"\0", 1)[1]
    if name == b"zTXt":
        return _inflated(text[1:])
    if name == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[2]  # after the language and the translated keyword
        return _inflated(text) if compressed else text
    return text


def keywords(text: Sequence[tuple[bytes, bytes]]) -> str:
    """What texts are called, for people."""
    return ", ".join(body.split(b"\0", 1)[0].decode("latin-1") for _, body in text)


def write(pixels: np.ndarray, metadata: Metadata, file: BinaryIO) -> None:
    """Write (H, W, C) uint8 or uint16, with its metadata."""
    import imagecodecs

    encoded = imagecodecs.png_encode(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    header = len(SIGNATURE) + 12 + 13  # and the chunk IHDR, which must come first
    file.write(encoded[:header])
    if metadata.cicp:
        putchunk(file, b"cICP", bytes([*metadata.cicp, 0, 1]))
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
        putchunk(file, b"iTXt", _XMP + b"\0\0\0\0\0" + metadata.xmp)
    for name, data in metadata.png_text:
        putchunk(file, name, data)
    file.write(encoded[header:])
