"""What a JPEG XL file says beside its pixels (ISO/IEC 18181-1, image header, and -2, boxes)."""

from __future__ import annotations

from dataclasses import dataclass

from moceir.pictures.boxes import box, boxes

_CODESTREAM = b"\xff\x0a"
_ALPHA, _SPOT, _CFA = 0, 2, 5


@dataclass
class Header:
    """What a file says."""

    bits: int = 8
    floating: bool = False
    lossless: bool = False
    """Its samples are stored as they are: neither as XYB nor as a JPEG file's."""
    animated: bool = False
    premultiplied: bool = False
    """Alpha is multiplied into the colours."""
    others: int = 0
    """Channels that are neither colours nor alpha."""
    exif: bytes = b""
    xmp: bytes = b""
    packed: bool = False
    """XMP is there, but compressed."""
    signed: bool = False
    """With content credentials (C2PA)."""
    gain_map: bool = False


class _Bits:
    """Bits of a codestream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._place, self._number = int.from_bytes(data, "little"), 0, 8 * len(data)

    def take(self, count: int) -> int:
        if self._place + count > self._number:
            raise ValueError("the header is cut")
        value = self._value >> self._place & ((1 << count) - 1)
        self._place += count
        return value

    def choice(self, *ways: tuple[int, int]) -> int:
        """One of four: an offset, and how many bits to add to it."""
        offset, count = ways[self.take(2)]
        return offset + self.take(count)

    def side(self, small: bool, ways: tuple[tuple[int, int], ...]) -> int:
        return 8 * (1 + self.take(5)) if small else self.choice(*ways)


_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
_KIND = ((0, 0), (1, 0), (2, 4), (18, 6))


def read(data: bytes) -> Header:
    """What a file says.

    Raises:
        ValueError: damaged.
    """
    header, jpeg, stream = Header(), False, b""
    if data.startswith(_CODESTREAM):
        stream = data[:4096]
    else:
        for b in boxes(data):
            content = slice(b.body, b.end)
            if b.name == b"xml ":
                header.xmp = data[content]
            elif b.name == b"Exif":
                skipped = int.from_bytes(data[b.body : b.body + 4], "big")
                header.exif = data[b.body + 4 + skipped : b.end]
            elif b.name == b"brob" and data[b.body : b.body + 4] == b"xml ":
                header.packed = True
            elif b.name == b"jbrd":
                jpeg = True
            header.signed |= b.name == b"jumb"
            header.gain_map |= b.name == b"jhgm"
            if b.name in (b"jxlc", b"jxlp") and len(stream) < 4096:
                stream += data[b.body + (4 if b.name == b"jxlp" else 0) : b.end][:4096]
    if not stream.startswith(_CODESTREAM):
        raise ValueError("no codestream")
    _read_header(_Bits(stream[2:4096]), header, jpeg)
    return header


def _size(bits: _Bits) -> None:
    small = bool(bits.take(1))
    bits.side(small, _SIDES)
    if bits.take(3) == 0:  # no fixed ratio of the sides
        bits.side(small, _SIDES)


def _preview(bits: _Bits) -> None:
    eighths = bits.take(1)
    ways = (
        ((16, 0), (32, 0), (1, 5), (33, 9)) if eighths else ((1, 6), (65, 8), (321, 10), (1345, 12))
    )
    bits.choice(*ways)
    if bits.take(3) == 0:
        bits.choice(*ways)


def _depth(bits: _Bits) -> tuple[int, bool]:
    floating = bool(bits.take(1))
    if floating:
        depth = bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)  # of them in the exponent
        return depth, True
    return bits.choice((8, 0), (10, 0), (12, 0), (1, 6)), False


def _read_header(bits: _Bits, header: Header, jpeg: bool) -> None:
    _size(bits)
    if bits.take(1):  # all as usual: 8 bits, XYB
        return
    if bits.take(1):  # more fields
        bits.take(3)  # orientation
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            header.animated = True
            bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    header.bits, header.floating = _depth(bits)
    bits.take(1)  # 16-bit buffers suffice
    for _ in range(bits.choice((0, 0), (1, 0), (2, 4), (1, 12))):
        _extra_channel(bits, header)
    header.lossless = not bits.take(1) and not jpeg


def _extra_channel(bits: _Bits, header: Header) -> None:
    if bits.take(1):  # alpha of 8 bits
        return
    kind = bits.choice(*_KIND)
    _depth(bits)
    bits.choice((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.choice((0, 0), (0, 4), (16, 5), (48, 10)))  # its name
    if kind == _ALPHA:
        header.premultiplied |= bool(bits.take(1))
        return
    header.others += 1
    if kind == _SPOT:
        bits.take(64)
    elif kind == _CFA:
        bits.choice((1, 0), (0, 2), (3, 4), (19, 8))


def with_boxes(data: bytes, exif: bytes, xmp: bytes) -> bytes:
    """A container with EXIF and XMP data, which stand before the picture."""
    pixels = next(b.start for b in boxes(data) if b.name in (b"jxlc", b"jxlp"))
    more = [
        *([box(b"Exif", bytes(4), exif)] if exif else []),
        *([box(b"xml ", xmp)] if xmp else []),
    ]
    return b"".join([data[:pixels], *more, data[pixels:]])
