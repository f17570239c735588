"""What metadata say about the old file is corrected or goes; what is dropped is named."""

from __future__ import annotations

import re
import struct
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from moceir.pictures import boxes, codec, colour, png, stale
from moceir.pictures.codec import Picture
from moceir.pictures.metadata import Metadata
from moceir.pictures.stale import corrected_xmp
from tests.pictures.test_codec import app13, encoded, exif, written
from tests.pictures.test_colour import avif, chunk
from tests.small_network import noise

RDF = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description %s>%s</rdf:Description>'
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)


def xmp(attributes: bytes = b"", elements: bytes = b"") -> bytes:
    return RDF % (b'dc:title="kept" ' + attributes, b"<dc:rights>kept</dc:rights>" + elements)


@pytest.mark.parametrize(
    ("attributes", "elements", "note"),
    [
        (b'tiff:Orientation="6" tiff:ImageWidth="5"', b"", None),
        (b"tiff:Orientation = '6'", b"<exif:PixelXDimension>5</exif:PixelXDimension>", None),
        (b"", b"<tiff:Orientation>6</tiff:Orientation>", None),
        (b"", b"<xmp:Thumbnails><rdf:Alt>abc\nabc</rdf:Alt></xmp:Thumbnails>", None),
        (b'hdrgm:Version="1.0" hdrgm:GainMapMax="2.3"', b"", stale.GAIN_MAP),
        (b"", b"<hdrgm:GainMapMax><rdf:Seq/></hdrgm:GainMapMax><hdrgm:A/>", stale.GAIN_MAP),
        (b'HDRGainMap:HDRGainMapVersion="131072"', b"", stale.GAIN_MAP),
        (b'GCamera:MotionPhoto="1"', b"<Container:Directory>a</Container:Directory>", stale.MOTION),
        (b"GCamera:MicroVideo='1' GCamera:MicroVideoOffset='9'", b"", stale.MOTION),
        (b'xmpNote:HasExtendedXMP="0123"', b"", "the second part of its XMP data was left out"),
        (
            b'GDepth:Format="RangeInverse"',
            b"",
            "the images or sounds inside it (a depth map, say) were left out",
        ),
    ],
)
def test_xmp_that_speaks_of_the_old_file(
    attributes: bytes, elements: bytes, note: str | None
) -> None:
    found, notes = corrected_xmp(xmp(attributes, elements))
    assert re.sub(rb"\s+", b"", found) == re.sub(rb"\s+", b"", xmp())
    assert notes == ([note] if note else [])
    picture = codec.decode(encoded(noise(), "JPEG", xmp=xmp(attributes, elements)), "a")
    assert picture.notes == notes and picture.metadata.xmp == found


def test_xmp_takes_time_in_proportion_to_its_length() -> None:
    long = b"<hdrgm:a>" * 500_000 + b" hdrgm:a='" * 500_000 + b"<hdrgm:" * 500_000
    # It would take hours if each were searched for its end.
    assert corrected_xmp(long)[0].startswith(b"<hdrgm:a>" * 500_000)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["H", "I"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_size_in_exif_is_that_of_the_upright_picture(
    orientation: int, kind: str, order: str
) -> None:
    number = {"H": 3, "I": 4}[kind]

    def entry(tag: int, value: int) -> bytes:
        body = struct.pack(f"{order}{kind}", value).ljust(4, b"\0")
        return struct.pack(f"{order}HHI", tag, number, 1) + body

    turned = struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
    first = [entry(256, 24), entry(257, 16), turned]
    inner = struct.pack(f"{order}HHII", 34665, 4, 1, 8 + 2 + 12 * 4 + 4)
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, 4)
    block += b"".join(first) + inner + bytes(4)
    block += struct.pack(f"{order}H", 2) + entry(40962, 24) + entry(40963, 16) + bytes(4)
    picture = codec.decode(encoded(noise(), "PNG", exif=block), "a")
    height, width, _ = picture.pixels.shape
    assert (width, height) == ((24, 16) if orientation == 1 else (16, 24))
    tags = Image.Exif()
    tags.load(picture.metadata.exif)
    assert (tags[256], tags[257], tags[274]) == (width, height, 1)
    inside = tags.get_ifd(34665)
    assert (inside[40962], inside[40963]) == (width, height)


def test_previews_in_photoshops_resources_go() -> None:
    segments = [app13(b"\x04\x0c", b"JPEG of old"), app13(b"\x04\x04", b"caption!")]
    picture = codec.decode(encoded(noise(), "JPEG", extra=b"".join(segments)), "a")
    assert picture.metadata.photoshop == segments[1][4:].removeprefix(b"Photoshop 3.0\0")
    damaged = app13(b"\x04\x0c", b"JPEG of old")[4:-3].removeprefix(b"Photoshop 3.0\0")
    assert stale.without_previews(damaged) == damaged


def test_long_resources_are_cut_into_segments_and_joined() -> None:
    photoshop = stale.resource(stale.CAPTIONS, b"c" * 100_000) + stale.resource(1005, b"abc")
    picture = Picture(np.asarray(noise()), "", Metadata(photoshop=photoshop, comments=(b"a", b"b")))
    again = codec.decode(written(picture, "JPEG")[0], "a").metadata
    assert again.photoshop == photoshop and again.comments == (b"a", b"b")


@pytest.mark.filterwarnings("ignore:Metadata Warning, tag 33723")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_captions_of_tiff_go_to_jpeg_and_back(wide: bool, order: str) -> None:
    captions = b"\x1c\x02\x78\0\x0aMy caption\0"
    value = np.frombuffer(captions, f"{order}u4" if wide else np.uint8)
    file = BytesIO()
    tag = (33723, "I" if wide else "B", len(value), tuple(int(v) for v in value), True)
    tifffile.imwrite(file, np.asarray(noise()), photometric="rgb", extratags=[tag], byteorder=order)
    picture = codec.decode(file.getvalue(), "a")
    assert stale.captions(picture.metadata.photoshop) == captions
    data = written(picture, "JPEG")[0]
    assert b"Photoshop 3.0\x008BIM\4\4" in data
    tiff = written(codec.decode(data, "a"), "TIFF")[0]
    with tifffile.TiffFile(BytesIO(tiff)) as again:
        assert bytes(again.pages.first.tags.valueof(33723)) == captions
        assert captions in bytes(again.pages.first.tags.valueof(34377))


@pytest.mark.parametrize(
    ("segments", "note"),
    [
        ([(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumb")], stale.CREDENTIALS),
        ([(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")], stale.GAIN_MAP),
        (
            [(0xE4, b"of the maker"), (0xE5, b"more"), (0xE4, b"more")],
            "its vendor-specific segments APP4, APP5 were left out",
        ),
    ],
)
def test_segments_of_jpeg_that_are_left_out(segments: list, note: str) -> None:
    extra = b"".join(stale.segment(marker, content) for marker, content in segments)
    assert codec.decode(encoded(noise(), "JPEG", extra=extra), "a").notes == [note]


def test_the_video_behind_a_jpeg_is_told() -> None:
    data = encoded(noise(), "JPEG") + VIDEO
    assert codec.decode(data, "a").notes == [stale.MOTION]
    both = encoded(noise(), "JPEG", xmp=xmp(b'GCamera:MotionPhoto="1"')) + VIDEO
    assert codec.decode(both, "a").notes == [stale.MOTION]


def test_a_gain_map_behind_a_jpeg_is_told() -> None:
    file = BytesIO()
    noise().save(file, "MPO", save_all=True, append_images=[noise()])
    data = file.getvalue()
    packet = b"http://ns.adobe.com/xap/1.0/\0" + xmp(b'hdrgm:Version="1.0"')
    ultra = data[:2] + stale.segment(0xE1, packet) + data[2:]
    picture = codec.decode(ultra, "a")
    assert picture.notes == [stale.GAIN_MAP]
    assert b"hdrgm" not in written(picture, "JPEG")[0]


def test_a_gain_map_in_avif_is_told() -> None:
    data = avif((1, 13))
    meta = next(b for b in boxes.boxes(data) if b.name == b"meta")
    held = data[meta.start : meta.end]
    infe = held.index(b"infe")
    assert boxes.has_gain_map(data.replace(held, held[: infe + 12] + b"tmap" + held[infe + 16 :]))
    assert not boxes.has_gain_map(data)


UUID_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


@pytest.mark.parametrize(
    ("file_format", "more", "note"),
    [
        ("AVIF", boxes.box(b"uuid", UUID_C2PA, b"signed"), stale.CREDENTIALS),
        ("HEIF", boxes.box(b"uuid", UUID_C2PA, b"signed"), stale.CREDENTIALS),
        ("HEIF", boxes.box(b"mpvd", VIDEO), stale.MOTION),
        ("JXL", boxes.box(b"jumb", b"signed"), stale.CREDENTIALS),
        ("JXL", boxes.box(b"jhgm", b"map"), stale.GAIN_MAP),
        ("WEBP", b"C2PA\6\0\0\0signed", stale.CREDENTIALS),
    ],
)
def test_what_lies_beside_the_picture_is_told(file_format: str, more: bytes, note: str) -> None:
    plain, _ = written(Picture(np.asarray(noise()), ""), file_format)
    assert codec.decode(plain, "a").notes == []
    whole = plain + more
    if file_format == "WEBP":
        whole = whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
    assert codec.decode(whole, "a").notes == [note]


def test_exif_says_srgb_where_colours_were_converted() -> None:
    tags = Image.Exif()
    tags.get_ifd(34665)[40961] = 65535
    exif_data = tags.tobytes()[6:]
    wide = Picture(np.asarray(noise()), "", Metadata(exif=exif_data, icc=colour.profile((12, 13))))
    for file_format, space in (("JPEG", 65535), ("JXL", 1)):
        again = Image.Exif()
        again.load(codec.decode(written(wide, file_format)[0], "a").metadata.exif)
        assert again.get_ifd(34665)[40961] == space
    cmyk = encoded(Image.new("CMYK", (4, 4)), "JPEG", exif=tags.tobytes())
    again = Image.Exif()
    again.load(codec.decode(cmyk, "a").metadata.exif)
    assert again.get_ifd(34665)[40961] == 1


def test_resolution_in_centimetres() -> None:
    file = BytesIO()
    tifffile.imwrite(
        file, np.asarray(noise()), photometric="rgb", resolution=(100, 50), resolutionunit=3
    )
    picture = codec.decode(file.getvalue(), "a")
    assert picture.metadata.dpi == pytest.approx((254, 127))
    again = codec.decode(written(picture, "PNG")[0], "b")
    assert again.metadata.dpi == pytest.approx((254, 127), abs=0.02)


def test_chunks_of_png_that_are_left_out() -> None:
    plain = encoded(noise(), "PNG")
    more = chunk(b"caBX", b"signed") + chunk(b"bKGD", bytes(6)) + chunk(b"prVt", b"private")
    picture = codec.decode(plain[:33] + more + plain[33:], "a")
    assert picture.notes == [stale.CREDENTIALS, "its chunks bKGD, prVt were left out"]
    known = chunk(b"sBIT", b"\x08\x08\x08")
    assert codec.decode(plain[:33] + known + plain[33:], "a").notes == []


def test_photoshops_layers_are_told() -> None:
    file = BytesIO()
    tag = (37724, "B", 8, tuple(b"Adobe Ph"), True)
    tifffile.imwrite(file, np.asarray(noise()), photometric="rgb", extratags=[tag])
    assert codec.decode(file.getvalue(), "a").notes == ["its Photoshop layers were left out"]


def test_the_structure_of_another_tiff_does_not_come_back() -> None:
    """As tags in the EXIF data of a JPEG file."""
    tags = Image.Exif()
    tags.load(exif(1))
    tags[330], tags[347], tags[320], tags[33432] = 8, b"tables", (1, 2, 3), "rights"
    picture = Picture(np.asarray(noise()), "", Metadata(exif=tags.tobytes()[6:]))
    with tifffile.TiffFile(BytesIO(written(picture, "TIFF")[0])) as again:
        held = again.pages.first.tags
        assert not {330, 347, 320} & set(held.keys()) and held.valueof(33432) == "rights"


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_what_is_written_as_png_can_be_read(size: int) -> None:
    """By us whatever its size; by Pillow up to its limit."""
    random = np.random.default_rng(0).bytes(size)
    text = [
        (b"tEXt", b"Comment\0" + b"a" * size),
        (b"zTXt", b"More\0\0" + png.zlib.compress(random.hex().encode())),
        (b"iTXt", b"Title\0\0\0de\0Titel\0" + "ü".encode() * size),
    ]
    metadata = Metadata(
        icc=random, xmp=xmp(b'a="%s"' % (b"a" * size)), exif=exif(1)[6:], png_text=text
    )
    data, notes = written(Picture(np.asarray(noise()), "", metadata), "PNG")
    picture = codec.decode(data, "a")
    assert notes == [] and picture.notes == []
    again = picture.metadata
    assert (again.icc, again.xmp, again.png_text) == (random, metadata.xmp, text)
    assert again.exif == metadata.exif
    if size < 1000:
        with Image.open(BytesIO(data)) as image:
            image.load()
            assert image.info["icc_profile"] == random and image.text["Title"] == "ü" * size
