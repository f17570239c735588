"""Metadata that describe the old file, and do not hold for the restored one.

A restored picture is upright, has new pixels, and lacks what accompanied the old ones: previews, a
gain map, the video of a motion photo, a signature. Metadata about these are corrected or removed,
and a note names what was left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

GAIN_MAP = "its gain map, which brightens it on HDR displays, was left out"
MOTION = "the video of a motion photo was left out"
_EXTENDED = "the second part of its XMP data was left out"
CREDENTIALS = "its content credentials (C2PA), which vouch for the original file, were left out"

_WIDTH, _LENGTH = (256, 40962), (257, 40963)
_EXIF_TAGS, _COLOUR_SPACE = 34665, 40961

_PHOTOSHOP = b"Photoshop 3.0\0"
CAPTIONS = 1028
_PREVIEWS = (1033, 1036)


# XMP


_UPRIGHT = (
    rb"tiff:(?:Orientation|ImageWidth|ImageLength)|exif:Pixel[XY]Dimension|(?:xmp|xap):Thumbnails"
)
_GAIN = rb"(?:hdrgm|HDRGainMap|apdi|hdr_metadata):\w+"
_VIDEO = rb"G?Camera:(?:MicroVideo|MotionPhoto)\w*"
_PARTS = rb"G?Container:Directory"
_SECOND = rb"xmpNote:HasExtendedXMP"
_INSIDE = rb"(?:GDepth|GImage|GAudio|GFocus):\w+|Device:(?:Cameras|Container|Profiles)"


def corrected_xmp(xmp: bytes) -> tuple[bytes, list[str]]:
    """XMP without what is not true of an upright picture in another file, and what to say.

    A packet in UTF-16 or UTF-32 stays as it is.
    """
    notes = []
    xmp, _ = _without(xmp, _UPRIGHT)
    for names, note in ((_GAIN, GAIN_MAP), (_VIDEO, MOTION), (_SECOND, _EXTENDED)):
        xmp, found = _without(xmp, names)
        if found:
            notes.append(note)
    xmp, parts = _without(xmp, _PARTS)
    xmp, inside = _without(xmp, _INSIDE)
    if inside or (parts and not notes):
        notes.append("the images or sounds inside it (a depth map, say) were left out")
    return xmp, notes


def _without(xmp: bytes, names: bytes) -> tuple[bytes, int]:
    """XMP without the properties, attributes or elements, whose names an expression matches, and
    how many there were. Takes a time in proportion to its length, whatever it holds."""
    attribute = rb"""\s(?:%s)\s*=\s*(?:"[^"]*"|'[^']*')""" % names
    xmp, number = re.subn(attribute, b"", xmp)
    kept, place, unclosed = [], 0, 0
    for start in re.finditer(rb"<(%s)(?:\s[^<>]*)?/?>" % names, xmp):
        end = start.end()
        if start.start() < place or unclosed > 9:
            continue
        if not start[0].endswith(b"/>"):
            closing = b"</" + start[1] + b">"
            found = xmp.find(closing, end)
            if found < 0:
                unclosed += 1
                continue
            end = found + len(closing)
        kept.append(xmp[place : start.start()])
        place, number = end, number + 1
    return b"".join([*kept, xmp[place:]]), number


# EXIF


def sized(exif: bytes, width: int, height: int) -> bytes:
    """An EXIF block whose tags for the size of the picture, where it has them, say this one."""
    sides = dict.fromkeys(_WIDTH, width) | dict.fromkeys(_LENGTH, height)
    return _with_numbers(exif, sides)


def of_srgb(exif: bytes) -> bytes:
    """An EXIF block that, if it speaks of a colour space, says sRGB."""
    return _with_numbers(exif, {_COLOUR_SPACE: 1})


def _with_numbers(exif: bytes, values: dict[int, int]) -> bytes:
    """An EXIF block with other numbers in those of these tags that it has."""
    block = bytearray(exif)
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (place,) = struct.unpack_from(f"{order}I", block, 4)
        inner = _set_numbers(block, order, place, values)
        if inner:
            _set_numbers(block, order, inner, values)
    except struct.error:
        return exif  # damaged, which its reader has said
    return bytes(block)


def _set_numbers(block: bytearray, order: str, place: int, values: dict[int, int]) -> int:
    """Sets them in a directory; where that of EXIF is, or 0."""
    inner = 0
    (entries,) = struct.unpack_from(f"{order}H", block, place)
    for entry in range(place + 2, place + 2 + 12 * entries, 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHII", block, entry)
        if tag == _EXIF_TAGS:
            inner = value
        elif tag in values and count == 1:
            if kind == 4:
                struct.pack_into(f"{order}I", block, entry + 8, values[tag])
            elif kind == 3 and values[tag] < 2**16:
                struct.pack_into(f"{order}H", block, entry + 8, values[tag])
    return inner


# Photoshop's resources, where press agencies' captions are


def _resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The number, the content and all bytes of each.

    Raises:
        ValueError: damaged.
    """
    place = 0
    while place < len(data):
        if place + 12 > len(data) or data[place : place + 4] not in (b"8BIM", b"MeSa", b"AgHg"):
            raise ValueError("no resource")
        (number,) = struct.unpack_from(">H", data, place + 4)
        body = place + 6 + (data[place + 6] + 2) // 2 * 2  # its name, of even length
        if body + 4 > len(data):
            raise ValueError("cut")
        (size,) = struct.unpack_from(">I", data, body)
        end = body + 4 + size + size % 2
        if body + 4 + size > len(data):
            raise ValueError("cut")
        yield number, data[body + 4 : body + 4 + size], data[place:end]
        place = end


def without_previews(photoshop: bytes) -> bytes:
    """Photoshop's resources without the pictures in them; damaged ones stay as they are."""
    try:
        held = list(_resources(photoshop))
    except ValueError:
        return photoshop
    if not any(number in _PREVIEWS for number, _, _ in held):
        return photoshop
    return b"".join(whole for number, _, whole in held if number not in _PREVIEWS)


def captions(photoshop: bytes) -> bytes:
    """The IPTC captions in Photoshop's resources."""
    try:
        return next((held for n, held, _ in _resources(photoshop) if n == CAPTIONS), b"")
    except ValueError:
        return b""


def resource(number: int, content: bytes) -> bytes:
    """One of Photoshop's resources."""
    head = b"8BIM" + struct.pack(">HHI", number, 0, len(content))
    return head + content + bytes(len(content) % 2)


# JPEG


def photoshop_of(segments: Sequence[tuple[str, bytes]]) -> bytes:
    """Photoshop's resources in a JPEG file's segments, of which one may continue another."""
    parts = []
    for name, content in segments:
        if name == "APP13" and content.startswith(_PHOTOSHOP):
            part = content[len(_PHOTOSHOP) :]
            parts.append(part + b"\0" if len(part) % 2 and _is_whole(part) else part)
    return without_previews(b"".join(parts))


def _is_whole(photoshop: bytes) -> bool:
    try:
        return bool(list(_resources(photoshop)))
    except ValueError:
        return False


def photoshop_segments(photoshop: bytes) -> bytes:
    """Segments of a JPEG file with Photoshop's resources."""
    size = 65533 - len(_PHOTOSHOP)
    parts = [photoshop[i : i + size] for i in range(0, len(photoshop), size)]
    return b"".join(segment(0xED, _PHOTOSHOP + part) for part in parts)


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


_KNOWN = {
    "APP0": (b"JFIF\0", b"JFXX\0"),
    "APP1": (
        b"Exif\0\0",
        b"http://ns.adobe.com/xap/1.0/\0",
        b"http://ns.adobe.com/xmp/extension/\0",
    ),
    "APP2": (b"ICC_PROFILE\0", b"MPF\0", b"urn:iso:std:iso:ts:21496:-1\0"),
    "APP13": (_PHOTOSHOP,),
    "APP14": (b"Adobe",),
    "COM": (b"",),
}


def jpeg_notes(segments: Sequence[tuple[str, bytes]], data: bytes) -> list[str]:
    """What is left out of a JPEG file, beside what its XMP data tell."""
    notes, others = [], []
    for name, content in segments:
        if name == "APP11" and b"jumb" in content[:64]:
            notes.append(CREDENTIALS)
        elif name == "APP2" and content.startswith(b"urn:iso:std:iso:ts:21496:-1\0"):
            notes.append(GAIN_MAP)
        elif not content.startswith(_KNOWN.get(name, ())):
            others.append(name)
    if re.search(rb"\0\0\0[\x10-\x40]ftyp(?:mp4|isom|qt  |avc1|M4V)", data):
        notes.append(MOTION)
    if others:
        names = ", ".join(dict.fromkeys(others))
        notes.append(f"its vendor-specific segments {names} were left out")
    return list(dict.fromkeys(notes))


def png_notes(names: Sequence[bytes]) -> list[str]:
    """What is left out of a PNG file for those chunks that are not kept."""
    notes = [CREDENTIALS] if b"caBX" in names else []
    others = dict.fromkeys(n.decode("latin-1") for n in names if n != b"caBX")
    if others:
        notes.append(f"its chunks {', '.join(others)} were left out")
    return notes
