"""What a JPEG 2000 file says beside its pixels, read and written box by box.

Pillow neither reads nor writes its colour profile, EXIF and XMP data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moceir.errors import PictureError
from moceir.pictures.boxes import box, boxes

_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_EXIF = b"JpgTiffExif->JP2"
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_SRGB, _GREY, _CMYK = 16, 17, 12
YCC = 18
PREMULTIPLIED = 2


@dataclass
class Header:
    """What a file says."""

    bits: tuple[int, ...] = ()
    """Of each channel."""
    whole: bool = True
    """Channels have one size, no sign and no palette."""
    space: int = _SRGB
    """The number of the enumerated colour space."""
    alpha: int | None = None
    """Of a last channel: 1 opacity, 2 multiplied into the colours; None if nothing is said."""
    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""


def read(data: bytes) -> Header:
    """What a file says.

    Raises:
        PictureError: a colour space that would be taken for another.
        struct.error, IndexError: damaged.
    """
    header = Header()
    if data.startswith(_SIGNATURE):
        for b in boxes(data):
            if b.name == b"jp2h":
                _read_header(data, b.body, b.end, header)
            elif b.name == b"uuid" and data[b.body : b.body + 16] == _EXIF:
                header.exif = data[b.body + 16 : b.end]
            elif b.name == b"uuid" and data[b.body : b.body + 16] == _XMP:
                header.xmp = data[b.body + 16 : b.end]
    place = data.find(_CODESTREAM)
    if place >= 0:
        (count,) = struct.unpack_from(">H", data, place + 40)
        samples = [struct.unpack_from("BBB", data, place + 42 + 3 * i) for i in range(count)]
        header.bits = tuple((depth & 127) + 1 for depth, _, _ in samples)
        header.whole &= all((depth & 128, x, y) == (0, 1, 1) for depth, x, y in samples)
    return header


def _read_header(data: bytes, start: int, end: int, header: Header) -> None:
    found = False
    for b in boxes(data, start, end):
        if b.name == b"colr" and not found:
            method = data[b.body]
            if method == 1:
                (header.space,) = struct.unpack_from(">I", data, b.body + 3)
                found = True
                if header.space not in (0, 15, _CMYK, _SRGB, _GREY, YCC):
                    raise PictureError(
                        f"JPEG 2000 in the colour space number {header.space}: convert it to sRGB"
                    )
            elif method in (2, 3):
                header.icc, found = data[b.body + 3 : b.end], True
        elif b.name == b"pclr":
            header.whole = False
        elif b.name == b"cdef":
            (count,) = struct.unpack_from(">H", data, b.body)
            for i in range(count):
                _, kind, _ = struct.unpack_from(">HHH", data, b.body + 2 + 6 * i)
                if kind in (1, PREMULTIPLIED):
                    header.alpha = kind


def with_metadata(codestream: bytes, channels: int, size: tuple[int, int], bits: int,
                  icc: bytes, exif: bytes, xmp: bytes) -> bytes:  # fmt: skip
    """A file of a codestream.

    Args:
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).
        size: width and height.
    """
    width, height = size
    ihdr = struct.pack(">IIHBBBB", height, width, channels, bits - 1, 7, 0, 0)
    space = struct.pack(">BBBI", 1, 0, 0, _SRGB if channels >= 3 else _GREY)
    header = [box(b"ihdr", ihdr), box(b"colr", b"\2\0\0" + icc if icc else space)]
    if channels in (2, 4):
        kinds = [(i, 0, i + 1) for i in range(channels - 1)] + [(channels - 1, 1, 0)]
        held = [struct.pack(">HHH", *kind) for kind in kinds]
        header.append(box(b"cdef", struct.pack(">H", channels), *held))
    parts = [
        _SIGNATURE,
        box(b"ftyp", b"jp2 \0\0\0\0jp2 "),
        box(b"jp2h", *header),
        *([box(b"uuid", _EXIF, exif)] if exif else []),
        *([box(b"uuid", _XMP, xmp)] if xmp else []),
        box(b"jp2c", codestream),
    ]
    return b"".join(parts)
