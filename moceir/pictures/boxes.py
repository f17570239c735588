"""The boxes that AVIF, HEIC, JPEG 2000 and JPEG XL files are made of.

They say what Pillow does not tell about a picture (its colours, its depth). The metadata of AVIF
files are put into them here: imagecodecs, which encodes AVIF, takes none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from moceir.pictures.metadata import Metadata
from moceir.pictures.stale import CREDENTIALS, GAIN_MAP, MOTION


class Box(NamedTuple):
    """A part of a file: where it begins, where its content begins, and where it ends."""

    name: bytes
    start: int
    body: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes in a part of a file, up to the first that is damaged."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1 and body + 8 <= end:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        elif size == 0:  # the last one
            size = end - start
        if start + size < body or start + size > end:
            return
        yield Box(name, start, body, start + size)
        start += size


def box(name: bytes, *content: bytes) -> bytes:
    """A box with this content."""
    body = b"".join(content)
    return struct.pack(">I", len(body) + 8) + name + body


def _meta(data: bytes) -> dict[bytes, Box]:
    """What describes the items of a file, by name."""
    for found in boxes(data):
        if found.name == b"meta":
            return {child.name: child for child in boxes(data, found.body + 4, found.end)}
    return {}


def primary_properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of the properties of a file's main picture.

    Raises:
        struct.error, IndexError: damaged.
    """
    meta = _meta(data)
    if b"pitm" not in meta or b"iprp" not in meta:
        return []
    place = meta[b"pitm"].body
    (primary,) = struct.unpack_from(">I" if data[place] else ">H", data, place + 4)
    parts = list(boxes(data, meta[b"iprp"].body, meta[b"iprp"].end))
    held = [b for part in parts if part.name == b"ipco" for b in boxes(data, part.body, part.end)]
    found = []
    for part in parts:
        if part.name == b"ipma":
            for index in _associations(data, part.body, primary):
                if 1 <= index <= len(held):
                    found.append(held[index - 1])
    return [(b.name, data[b.body : b.end]) for b in found]


def _associations(data: bytes, place: int, item: int) -> list[int]:
    """The numbers of an item's properties, from 1, as an ``ipma`` box has them."""
    wide, version = data[place + 3] & 1, data[place]
    (entries,) = struct.unpack_from(">I", data, place + 4)
    place += 8
    for _ in range(entries):
        (found,) = struct.unpack_from(">I" if version else ">H", data, place)
        place += 4 if version else 2
        count, place = data[place], place + 1
        if found == item:
            numbers = struct.unpack_from(f">{count}{'H' if wide else 'B'}", data, place)
            return [number & (0x7FFF if wide else 0x7F) for number in numbers]
        place += count * (2 if wide else 1)
    return []


def nclx(properties: list[tuple[bytes, bytes]]) -> tuple[int, int, int] | None:
    """Primaries, transfer and matrix (ITU-T H.273) of a picture; None if it does not say."""
    for name, body in properties:
        if name == b"colr" and body[:4] == b"nclx":
            return struct.unpack_from(">HHH", body, 4)
    return None


def bits(properties: list[tuple[bytes, bytes]]) -> int:
    """Bits of an AVIF or HEIC picture's samples."""
    held = dict(properties)
    if b"pixi" in held:
        return max(held[b"pixi"][5:], default=8)
    if b"av1C" in held:
        return (8, 8, 10, 12)[held[b"av1C"][2] >> 5 & 3]
    return 8


def is_grey(properties: list[tuple[bytes, bytes]]) -> bool:
    """Whether an AVIF picture has no colours."""
    return bool(dict(properties).get(b"av1C", bytes(3))[2] & 0x10)


def has_gain_map(data: bytes) -> bool:
    """Whether an AVIF or HEIC file has a picture that is made from another by a gain map."""
    meta = _meta(data)
    return b"iinf" in meta and b"tmap" in data[meta[b"iinf"].body : meta[b"iinf"].end]


_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def left_out(data: bytes) -> list[str]:
    """What is beside the picture in an AVIF or HEIC file, and is not kept."""
    notes = [GAIN_MAP] if has_gain_map(data) else []
    for b in boxes(data):
        if b.name == b"mpvd":
            notes.append(MOTION)
        elif b.name == b"uuid" and data[b.body : b.body + 16] == _C2PA:
            notes.append(CREDENTIALS)
    return notes


def with_items(data: bytes, metadata: Metadata) -> bytes:
    """An AVIF file, as libavif writes it, with EXIF, XMP and an ICC profile.

    Raises:
        ValueError, KeyError, struct.error: built otherwise than libavif does.
    """
    meta = next(b for b in boxes(data) if b.name == b"meta")
    parts = {b.name: data[b.start : b.end] for b in boxes(data, meta.body + 4, meta.end)}
    (primary,) = struct.unpack_from(">H", parts[b"pitm"], 12)
    (known,) = struct.unpack_from(">H", parts[b"iinf"], 12)
    items = {}
    if metadata.exif:
        items[b"Exif\0"] = bytes(4) + metadata.exif  # nothing stands before the TIFF structure
    if metadata.xmp:
        items[b"mime\0application/rdf+xml\0"] = metadata.xmp
    numbers = range(known + 1, known + 1 + len(items))
    infos = [
        box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), kind[:4], kind[4:])
        for number, kind in zip(numbers, items, strict=True)
    ]
    count = struct.pack(">H", known + len(items))
    parts[b"iinf"] = box(b"iinf", parts[b"iinf"][8:12], count, parts[b"iinf"][14:], *infos)
    if items:
        links = [box(b"cdsc", struct.pack(">HHH", number, 1, primary)) for number in numbers]
        parts[b"iref"] = box(b"iref", parts.get(b"iref", bytes(12))[8:], *links)
    if metadata.icc:
        parts[b"iprp"] = _with_profile(parts[b"iprp"], primary, metadata.icc)

    places = _places(parts[b"iloc"])

    def described(shift: int) -> bytes:
        """The new description, if all that lies behind it moves by so many bytes."""
        moved = [(number, at + shift, size) for number, at, size in places]
        at = len(data) + shift + 8
        for number, content in zip(numbers, items.values(), strict=True):
            moved.append((number, at, len(content)))
            at += len(content)
        entries = [struct.pack(">HHHII", number, 0, 1, at, size) for number, at, size in moved]
        parts[b"iloc"] = box(
            b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(entries)), *entries
        )  # 4 bytes for places and sizes each
        return box(b"meta", data[meta.body : meta.body + 4], *parts.values())

    new = described(len(described(0)) - (meta.end - meta.start))
    rest = box(b"mdat", *items.values()) if items else b""
    return b"".join([data[: meta.start], new, data[meta.end :], rest])


def _places(iloc: bytes) -> list[tuple[int, int, int]]:
    """Number, place and size of each item, of which libavif writes every one in one piece."""
    version, sizes, bases, count = struct.unpack_from(">B3xBBH", iloc, 8)
    if version or sizes != 0x44 or bases & 0xF0 not in (0, 0x40):
        raise ValueError("libavif's table of items is of a kind that is not known here")
    place, found = 16, []
    for _ in range(count):
        (number,) = struct.unpack_from(">H", iloc, place)
        place += 4
        base = struct.unpack_from(">I", iloc, place)[0] if bases & 0xF0 else 0
        place += 4 if bases & 0xF0 else 0
        extents, at, size = struct.unpack_from(">HII", iloc, place)
        if extents != 1:
            raise ValueError("libavif has cut an item into parts")
        place += 10
        found.append((number, base + at, size))
    return found


def _with_profile(iprp: bytes, item: int, icc: bytes) -> bytes:
    """An item's properties with an ICC profile."""
    parts = {b.name: iprp[b.body : b.end] for b in boxes(iprp, 8)}
    number = 1 + sum(1 for _ in boxes(parts[b"ipco"]))
    held = parts[b"ipma"]
    if held[0] or held[3] & 1:
        raise ValueError("libavif's table of properties is of a kind that is not known here")
    place, out = 8, [held[:8]]
    for _ in range(struct.unpack_from(">I", held, 4)[0]):
        (of, count) = struct.unpack_from(">HB", held, place)
        entry = held[place : place + 3 + count]
        if of == item:
            entry = entry[:2] + bytes([count + 1]) + entry[3:] + bytes([number])
        out.append(entry)
        place += 3 + count
    profile = box(b"colr", b"prof", icc)
    return box(b"iprp", box(b"ipco", parts[b"ipco"], profile), box(b"ipma", *out))
