"""EXIF, XMP, ICC profile and resolution of a picture, from one file to another."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from moceir.pictures import stale

ORIENTATION = 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, ICC_TAG = 700, 33723, 34377, 34675
_LAYERS, _C2PA = 37724, 52545
EXIF_TAGS, GPS_TAGS = 34665, 34853

# What a TIFF file says about its own pixels, which is not true of another file's.
STRUCTURE = {
    *range(254, 260), 262, 263, 264, 265, 266, 273, ORIENTATION, 277, 278, 279, 280, 281,
    284, 288, 289, 290, 291, 292, 293, 297, 301, 317, 318, 319, 320, *range(322, 326), 330,
    *range(332, 344), 347, *range(512, 522), *range(529, 533),
    XMP_TAG, IPTC_TAG, ICC_TAG, PHOTOSHOP_TAG, _LAYERS, _C2PA,
}  # fmt: skip


@dataclass
class Metadata:
    """What a picture's file says beside its pixels; empty where it says nothing."""

    exif: bytes = b""
    """A TIFF structure, without the ``Exif`` mark before it."""
    xmp: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None
    photoshop: bytes = b""
    """Photoshop's resources, where press agencies' captions (IPTC) are, of JPEG and TIFF."""
    comments: tuple[bytes, ...] = ()
    """Of JPEG and GIF."""
    cicp: tuple[int, int] | None = None
    """ITU-T H.273 code points of the primaries and the transfer function; None: as the profile
    says, or sRGB."""
    png_colour: dict[bytes, bytes] = field(default_factory=dict)
    """PNG's own chunks about colour: gAMA, cHRM, sRGB, mDCV, cLLI."""
    png_text: list[tuple[bytes, bytes]] = field(default_factory=list)
    """PNG's chunks tEXt, zTXt and iTXt (title, author, how a picture was generated), but for XMP:
    their names and what is in them."""


DAMAGED = (struct.error, IndexError, ValueError, TypeError, KeyError, OSError, SyntaxError)
"""What reading damaged EXIF data raises."""


def read(image: Image.Image, data: bytes = b"") -> tuple[Metadata, int, list[str]]:
    """The metadata of a picture, how its pixels are to be turned, and what had to be left out.

    Args:
        image: as Pillow loaded it; it stays as it is.
        data: its file; empty for a picture that comes from none, or from where nobody knows.
    """
    if image.format == "TIFF" and data:
        metadata, _, notes = read_tiff(data)
        return metadata, 1, notes  # Pillow has turned it already
    metadata, orientation, notes = Metadata(), 1, []
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        metadata.exif = _exif(image)
    except DAMAGED:
        notes.append("its EXIF data are damaged and were left out")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if image.format == "JXL":
        orientation = 1  # the file's own orientation counts, and its decoder has followed it
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    metadata.xmp, said = stale.corrected_xmp(xmp)
    notes += said
    metadata.icc = image.info.get("icc_profile") or b""
    metadata.dpi = _dpi(*image.info.get("dpi", (0, 0)))
    segments = getattr(image, "applist", ())
    metadata.photoshop = stale.photoshop_of(segments)
    if image.format in ("JPEG", "MPO"):
        metadata.comments = tuple(content for name, content in segments if name == "COM")
        notes += [note for note in stale.jpeg_notes(segments, data) if note not in notes]
    elif image.info.get("comment") and image.format in ("GIF", "JPEG2000"):
        comment = image.info["comment"]
        if not comment.startswith(b"Created by OpenJPEG"):
            metadata.comments = (comment,)
    return metadata, orientation, notes


def _exif(image: Image.Image) -> bytes:
    raw = image.info.get("exif")
    if isinstance(raw, bytes) and raw:
        return upright(raw.removeprefix(b"Exif\0\0"))
    tags, kept = image.getexif(), Image.Exif()
    for tag in tags:
        if tag not in STRUCTURE:
            kept[tag] = tags.get_ifd(tag) if tag in (EXIF_TAGS, GPS_TAGS) else tags[tag]
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""


def read_tiff(data: bytes) -> tuple[Metadata, int, list[str]]:
    """``read`` for a TIFF file, whose tags are EXIF's; its pixels are not turned yet."""
    metadata = Metadata()
    try:
        tags = Image.Exif()
        order = "<" if data[:2] == b"II" else ">"
        tags.endian = order
        tags.bigtiff = data[2:4] in (b"+\0", b"\0+")
        place = (
            struct.unpack_from(f"{order}Q", data, 8)
            if tags.bigtiff
            else struct.unpack_from(f"{order}I", data, 4)
        )
        tags.load_from_fp(BytesIO(data), place[0])
        orientation = tags.get(ORIENTATION, 1)
        metadata.xmp, notes = stale.corrected_xmp(_bytes(tags.get(XMP_TAG)))
        metadata.photoshop = _photoshop(tags, data, order, place[0])
        if _LAYERS in tags:
            notes.append("its Photoshop layers were left out")
        if _C2PA in tags:
            notes.append(stale.CREDENTIALS)
        metadata.icc = _bytes(tags.get(ICC_TAG))
        unit = {2: 1, 3: 2.54}.get(tags.get(RESOLUTION_UNIT, 2), 0)  # inches, centimetres
        metadata.dpi = _dpi(unit * tags.get(X_RESOLUTION, 0), unit * tags.get(Y_RESOLUTION, 0))
        for tag in (EXIF_TAGS, GPS_TAGS):  # to be read before they move
            tags.get_ifd(tag)
        for tag in list(tags):
            if tag in STRUCTURE:
                del tags[tag]
        tags.bigtiff = False
        metadata.exif = tags.tobytes().removeprefix(b"Exif\0\0") if len(tags) else b""
    except DAMAGED:
        return metadata, 1, ["its tags are damaged and were left out"]
    return metadata, orientation, notes


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _photoshop(tags: Image.Exif, data: bytes, order: str, place: int) -> bytes:
    """Photoshop's resources of a TIFF file, with the captions that have a tag of their own."""
    held = stale.without_previews(_bytes(tags.get(PHOTOSHOP_TAG)))
    captions = _raw(data, order, place) if IPTC_TAG in tags and not tags.bigtiff else b""
    if captions and not stale.captions(held):
        held += stale.resource(stale.CAPTIONS, captions)
    return held


def _raw(data: bytes, order: str, place: int) -> bytes:
    """The captions in a directory, as bytes: some programs call them 32-bit numbers, of which
    Pillow takes one."""
    (entries,) = struct.unpack_from(f"{order}H", data, place)
    for entry in range(place + 2, place + 2 + 12 * entries, 12):
        tag, kind, count, at = struct.unpack_from(f"{order}HHII", data, entry)
        if tag == IPTC_TAG:
            size = count * {3: 2, 4: 4}.get(kind, 1)
            start = at if size > 4 else entry + 8
            return data[start : start + size]
    return b""


def _dpi(x: float, y: float) -> tuple[float, float] | None:
    return (float(x), float(y)) if 0 < x < 1e6 and 0 < y < 1e6 else None


def upright(exif: bytes) -> bytes:
    """An EXIF block with its orientation set to upright and its thumbnail, which shows the
    picture before it was turned and restored, detached. Nothing else moves: the notes of camera
    makers point to absolute places.

    Raises:
        struct.error, IndexError, ValueError: damaged.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        raise ValueError("no TIFF structure")
    block = bytearray(exif)
    magic, offset = struct.unpack_from(f"{order}HI", block, 2)
    if magic != 42:
        raise ValueError("no TIFF structure")
    (entries,) = struct.unpack_from(f"{order}H", block, offset)
    end = offset + 2 + 12 * entries
    for entry in range(offset + 2, end, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", block, entry)
        if tag == ORIENTATION and (kind, count) == (3, 1):
            struct.pack_into(f"{order}H", block, entry + 8, 1)
    if len(block) >= end + 4:  # some cameras leave the link to the thumbnail out
        struct.pack_into(f"{order}I", block, end, 0)
    return bytes(block)


def can_be_rewritten(exif: bytes) -> bool:
    """Whether the tags can be taken apart and put together anew, as TIFF needs them."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        tags.tobytes()
    except Exception:  # Pillow raises anything at all for damaged tags
        return False
    return True
