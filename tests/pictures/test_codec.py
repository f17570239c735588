"""Pictures of every kind come through with their depth, alpha, grey and metadata."""

from __future__ import annotations

import errno
import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from moceir import machine
from moceir.errors import PictureError
from moceir.pictures import codec, encoders
from moceir.pictures.codec import Picture
from moceir.pictures.metadata import Metadata, upright
from moceir.pictures.pixels import to_8_bits
from tests.small_network import noise

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" dc:title="ok"/></x:xmpmeta>'


def exif(orientation: int = 6) -> bytes:
    tags = Image.Exif()
    tags[0x010F] = "Maker"
    tags[0x0112] = orientation
    tags.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    tags.get_ifd(0x8769)[0x927C] = b"what the maker of the camera wrote"
    tags.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return tags.tobytes()


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    codec.formats()  # with the plug-ins
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def with_metadata(file_format: str) -> bytes:
    options: dict[str, object] = {"exif": exif(), "icc_profile": ICC, "dpi": (300, 300)}
    if file_format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif file_format == "TIFF":
        tags = Image.Exif()
        tags.load(exif())
        tags[700] = XMP
        options["exif"] = tags
    else:
        options["xmp"] = XMP
    return encoded(noise(), file_format, **options)


def written(picture: Picture, file_format: str, **options: int) -> tuple[bytes, list[str]]:
    file = BytesIO()
    notes = codec.encode(picture, file, file_format, **options)
    return file.getvalue(), notes


@pytest.mark.parametrize("before", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL"])
@pytest.mark.parametrize("after", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL"])
def test_metadata_are_kept_from_any_format_to_any(before: str, after: str) -> None:
    picture = codec.decode(with_metadata(before), "a")
    # Upright; in JPEG XL the file's own orientation counts, not that of its EXIF data.
    assert picture.pixels.shape == ((16, 24, 3) if before == "JXL" else (24, 16, 3))
    assert picture.notes == []
    data, notes = written(picture, after)
    assert notes == []
    with Image.open(BytesIO(data)) as image:
        image.load()
        tags = image.getexif()
        assert image.size == picture.pixels.shape[1::-1]
        assert tags.get(0x0112, 1) == 1
        assert tags[0x010F] == "Maker"
        assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert tags.get_ifd(0x8769)[0x927C] == b"what the maker of the camera wrote"
        assert tags.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)
        if "JXL" not in (before, after):
            assert image.info["icc_profile"] == ICC
        xmp = codec.decode(data, "b").metadata.xmp
        assert b"dc:title" in xmp and b"Orientation" not in xmp
        if {before, after} <= {"JPEG", "PNG", "TIFF"}:
            assert [round(d) for d in image.info["dpi"]] == [300, 300]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_every_orientation_is_honoured(file_format: str, orientation: int) -> None:
    from PIL import ImageOps

    data = encoded(noise(5, 3), file_format, exif=exif(orientation))
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(codec.decode(data, "a").pixels, expected)


def test_sixteen_bits_are_turned_too() -> None:
    pixels = np.arange(5 * 3 * 3, dtype=np.uint16).reshape(5, 3, 3)
    file = BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    assert np.array_equal(codec.decode(file.getvalue(), "a").pixels, np.rot90(pixels, 3))


def test_the_notes_of_camera_makers_stay_where_they_are_and_the_old_thumbnail_goes() -> None:
    before = encoded(noise(), "JPEG", exif=exif())
    block = Image.open(BytesIO(before)).info["exif"].removeprefix(b"Exif\0\0")
    place = block.index(b"what the maker")
    assert upright(block).index(b"what the maker") == place

    entries = struct.pack("<HHHII", 1, 0x0112, 3, 1, 6) + struct.pack("<I", 99)  # link to IFD 1
    kept = upright(b"II*\0" + struct.pack("<I", 8) + entries)
    assert kept == b"II*\0" + struct.pack("<I", 8) + entries[:10] + struct.pack("<II", 1, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("damaged", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nothing at all"])
def test_damaged_exif_is_left_out_and_said(damaged: bytes) -> None:
    picture = codec.decode(encoded(noise(), "WEBP", exif=damaged), "a")
    assert picture.metadata.exif == b""
    assert picture.notes == ["its EXIF data are damaged and were left out"]


def test_exif_that_cannot_be_rewritten_is_left_out_and_said() -> None:
    # Whole, but the version of the GPS tags is a text, which it must not be.
    pointer = struct.pack("<HHHIII", 1, 0x8825, 4, 1, 26, 0)
    version = struct.pack("<HHHIII", 1, 0, 2, 1, 0, 0)
    damaged = b"II*\0" + struct.pack("<I", 8) + pointer + version
    picture = codec.decode(encoded(noise(), "PNG", exif=damaged), "a")
    assert picture.metadata.exif
    data, notes = written(picture, "TIFF")
    assert notes == ["its EXIF data are damaged and were left out"]
    assert Image.open(BytesIO(data)).size == (24, 16)
    data, notes = written(picture, "AVIF")  # where it moves as it is
    assert notes == [] and codec.decode(data, "a").metadata.exif == damaged


def app13(resource: bytes, content: bytes) -> bytes:
    block = (
        b"Photoshop 3.0\x008BIM" + resource + b"\0\0" + struct.pack(">I", len(content)) + content
    )
    return b"\xff\xed" + struct.pack(">H", len(block) + 2) + block


def test_all_captions_of_agencies_and_comments_are_kept() -> None:
    segments = [app13(b"\x04\x04", b"caption!"), app13(b"\x03\xf3", b"\0" * 8)]
    data = encoded(noise(), "JPEG", extra=b"".join(segments), comment=b"by hand")
    picture = codec.decode(data, "a")
    for file_format in ("JPEG", "TIFF"):
        again = codec.decode(written(picture, file_format)[0], "a").metadata
        assert again.photoshop == b"".join(s[4:].removeprefix(b"Photoshop 3.0\0") for s in segments)
        assert again.comments == ((b"by hand",) if file_format == "JPEG" else ())
    assert written(picture, "PNG")[1] == [
        "left out, as PNG has no place for them: IPTC captions and comment"
    ]


def test_colour_chunks_are_kept() -> None:
    colour = {b"gAMA": struct.pack(">I", 45455), b"cLLI": bytes(8)}
    data = written(Picture(np.asarray(noise()), "", Metadata(png_colour=colour)), "PNG")[0]
    assert codec.decode(data, "a").metadata.png_colour == colour
    with Image.open(BytesIO(data)) as image:
        assert image.info["gamma"] == 0.45455


def test_texts_of_png_are_kept_or_it_is_said() -> None:
    info = PngInfo()
    info.add_text("parameters", "a tree, Seed: 42")
    info.add_text("Comment", "x" * 2_000_000, zip=True)  # more than Pillow reads
    info.add_itxt("Title", "Bücher 12")
    picture = codec.decode(encoded(noise(), "PNG", pnginfo=info), "a")
    data, notes = written(picture, "PNG")
    assert notes == [] and codec.decode(data, "a").metadata.png_text == picture.metadata.png_text
    picture.metadata.png_text = [t for t in picture.metadata.png_text if b"Comment" not in t[1]]
    with Image.open(BytesIO(written(picture, "PNG")[0])) as image:
        assert image.text == {"parameters": "a tree, Seed: 42", "Title": "Bücher 12"}
    assert written(picture, "TIFF")[1] == [
        "left out, as TIFF has no place for them: texts (parameters, Title)"
    ]


@pytest.mark.parametrize("before", ["PNG", "TIFF", "JPEG"])
def test_long_profiles_are_kept(before: str) -> None:
    profile = ICC + np.random.default_rng(0).bytes(1_400_000)
    picture = codec.decode(encoded(noise(), before, icc_profile=profile), "a")
    assert picture.metadata.icc == profile and picture.notes == []
    again = codec.decode(written(picture, "PNG")[0], "a")
    assert again.metadata.icc == profile and again.notes == []


def test_a_damaged_profile_is_left_out_and_said() -> None:
    data = written(Picture(np.zeros((2, 2, 3), np.uint8), ""), "PNG")[0]
    body = b"iCCPname\0\0nonsense"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    picture = codec.decode(data[:33] + chunk + data[33:], "a")
    assert picture.metadata.icc == b""
    assert picture.notes == ["its colour profile is damaged or too long and was left out"]


def test_exif_that_old_imagemagick_wrote_as_text() -> None:
    info, block = PngInfo(), exif()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    picture = codec.decode(encoded(noise(), "PNG", pnginfo=info), "a")
    assert picture.pixels.shape == (24, 16, 3)
    assert b"Maker" in picture.metadata.exif and picture.metadata.png_text == []


def test_programs_are_not_run() -> None:
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(PictureError, match="a: EPS, which is a program: convert it to PNG"):
        codec.decode(text, "a")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("mark", ["dng", "preview"])
def test_camera_raw_is_refused(dtype: str, mark: str) -> None:
    """Its first picture is a thumbnail."""
    options = {
        "dng": {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]},
        "preview": {"subfiletype": 1},
    }
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((4, 6, 3), dtype), photometric="rgb", **options[mark])
    with pytest.raises(PictureError, match="a: camera raw, or a TIFF file that begins with a prev"):
        codec.decode(file.getvalue(), "a")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_images_mean_what_their_files_mean(file_format: str, orientation: int) -> None:
    data = encoded(noise(5, 3), file_format, exif=exif(orientation), icc_profile=ICC, dpi=(72, 72))
    expected = codec.decode(data, "a")
    with Image.open(BytesIO(data)) as image:
        picture = codec.picture_of(image)
        again = codec.picture_of(image)  # it stays as it is
    assert np.array_equal(picture.pixels, expected.pixels)
    assert np.array_equal(again.pixels, expected.pixels)
    assert picture.metadata.icc == ICC
    assert [round(value) for value in picture.metadata.dpi or ()] == [72, 72]
    tags = Image.Exif()
    tags.load(picture.metadata.exif)
    assert tags[0x010F] == "Maker" and tags.get(0x0112, 1) == 1
    assert tags.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)


def test_an_image_whose_file_is_damaged() -> None:
    with (
        Image.open(BytesIO(encoded(noise(), "PNG")[:-300])) as image,
        pytest.raises(PictureError, match="the image: cannot be read"),
    ):
        codec.picture_of(image)


def test_gif_has_256_colours_and_that_is_said() -> None:
    picture = Picture(np.asarray(noise()), "GIF")
    assert written(picture, "GIF")[1] == ["reduced to 256 colours, which is all that GIF holds"]


@pytest.mark.parametrize(("file_format", "module"), [("PNG", "imagecodecs"), ("TIFF", "tifffile")])
def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, file_format: str, module: str
) -> None:
    picture = Picture(np.zeros((2, 2, 3), np.uint16), "")
    data = written(picture, file_format)[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PictureError, match=f"a: to read it, pip install {module}"):
        codec.decode(data, "a")
    if module == "imagecodecs":
        with pytest.raises(PictureError, match=f"PNG is written by {module}: pip install"):
            written(picture, file_format)


class Full(BytesIO):
    """A disk on which one more byte has place."""

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("file_format", ["JPEG", "BMP", "PNG", "TIFF", "WEBP", "GIF"])
def test_a_full_disk_is_no_fault_of_the_format(file_format: str) -> None:
    with pytest.raises(OSError, match="No space left"):
        codec.encode(Picture(np.asarray(noise()), ""), Full(), file_format)


def test_half_transparent_pixels_of_gif_are_said() -> None:
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    colours = "reduced to 256 colours, which is all that GIF holds"
    assert written(Picture(pixels, ""), "GIF")[1] == [colours]
    pixels[0, 1, 3] = 128
    half = "semi-transparent pixels became opaque or fully transparent"
    assert written(Picture(pixels, ""), "GIF")[1] == [colours, half]


@pytest.mark.parametrize("file_format", encoders.WRITTEN)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_that_is_written_can_be_read(file_format: str, channels: int) -> None:
    pixels = np.full((20, 30, channels), 255, np.uint8)
    pixels[5:, 8:, 0] = 99
    try:
        data, notes = written(Picture(pixels, ""), file_format)
    except PictureError as error:
        assert file_format in ("SGI", "QOI") and "choose .png" in str(error)
        return
    again = codec.decode(data, "a")
    assert again.notes == [] and again.pixels.shape[:2] == (20, 30)
    if not notes:
        shown = to_8_bits(again.pixels)[[2, 12], [2, 20], 0]
        assert shown.tolist() == pytest.approx([255, 99], abs=3)


def test_what_a_jpeg_cannot_hold_is_said() -> None:
    picture = Picture(np.zeros((2, 2, 3), np.uint8), "PNG", Metadata(xmp=b" " * 70_000))
    assert written(picture, "JPEG")[1] == ["its XMP data are too long for JPEG and were left out"]
    assert written(picture, "BMP")[1] == ["left out, as BMP has no place for them: XMP data"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("dtype", "file_format"),
    [
        ("uint8", "PNG"),
        ("uint8", "TIFF"),
        ("uint16", "PNG"),
        ("uint16", "TIFF"),
        ("float32", "TIFF"),
    ],
)
def test_depth_and_channels_are_kept_exactly(dtype: str, file_format: str, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (70, 900, channels))
    pixels = (values / 65535).astype(dtype) if dtype == "float32" else values.astype(dtype)
    data, notes = written(Picture(pixels, ""), file_format)
    again = codec.decode(data, "a")
    assert notes == [] and again.notes == [] and again.format == file_format
    assert again.pixels.dtype == pixels.dtype
    assert np.array_equal(again.pixels, pixels)
    # And others read the same.
    if file_format == "TIFF":
        assert np.array_equal(tifffile.imread(BytesIO(data)).reshape(pixels.shape), pixels)
    elif dtype == "uint8":
        assert np.array_equal(np.asarray(Image.open(BytesIO(data))).reshape(pixels.shape), pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": True},
        {"tile": (16, 16)},
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiffs_of_other_programs(options: dict[str, object], dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 30, 3)).astype(dtype)
    stored = pixels.transpose(2, 0, 1) if "planarconfig" in options else pixels
    file = BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", iccprofile=ICC, **options)
    picture = codec.decode(file.getvalue(), "a")
    assert np.array_equal(picture.pixels, pixels)
    assert picture.metadata.icc == ICC
    assert picture.notes == (
        ["its tags other than ICC profile and XMP were left out (big-endian BigTIFF)"]
        if {"bigtiff", "byteorder"} <= set(options)
        else []
    )


def test_white_may_be_zero() -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.full((2, 2), 65535, np.uint16), photometric="miniswhite")
    assert codec.decode(file.getvalue(), "a").pixels.max() == 0


def test_a_16_bit_png_with_a_transparent_colour() -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 1000
    data = written(Picture(pixels, ""), "PNG")[0]
    body = b"tRNS" + struct.pack(">HHH", *pixels[0, 1])
    chunk = struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body))
    picture = codec.decode(data[:33] + chunk + data[33:], "a")
    assert np.array_equal(picture.pixels[..., :3], pixels)
    assert picture.pixels[..., 3].tolist() == [[65535, 0], [65535, 65535]]


def test_a_profile_that_does_not_fit_is_kept_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    grey = Picture(np.zeros((2, 2, 1), np.uint16), "", Metadata(icc=ICC))
    assert codec.decode(written(grey, "PNG")[0], "a").metadata.icc == ICC
    assert capfd.readouterr().err == ""


def test_more_bits_than_the_format_holds_are_rounded_and_said() -> None:
    pixels = np.full((2, 2, 3), 257 * 100, np.uint16)
    data, notes = written(Picture(pixels, ""), "JPEG")
    assert notes == ["rounded to 8 bits, which is all that JPEG is written with"]
    assert np.asarray(Image.open(BytesIO(data))).max() == 100
    data, notes = written(Picture(np.full((2, 2, 3), 0.5, np.float32), ""), "PNG")
    assert notes == ["rounded to 16 bits, which is all that PNG holds"]
    assert imagecodecs.png_decode(data).max() == 32768


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("RGB", 3), ("RGBA", 4), ("I;16", 1)],
)
def test_modes(mode: str, channels: int) -> None:
    image = noise().convert("L").convert(mode) if mode == "I;16" else noise().convert(mode)
    picture = codec.decode(encoded(image, "PNG"), "a")
    assert picture.pixels.shape[2] == channels
    assert picture.pixels.itemsize == (2 if mode == "I;16" else 1)


def test_transparent_colours_become_alpha() -> None:
    image = noise().convert("P")
    palette = codec.decode(encoded(image, "PNG", transparency=5), "a")
    assert palette.pixels.shape[2] == 4
    assert np.array_equal(palette.pixels[..., 3] == 0, np.asarray(image) == 5)
    grey = codec.decode(encoded(Image.new("L", (2, 2), 7), "PNG", transparency=7), "a")
    assert grey.pixels.tolist() == [[[7, 0]] * 2] * 2


def test_opaque_alpha_may_go_and_other_alpha_is_not_dropped() -> None:
    opaque = np.full((2, 2, 4), 255, np.uint8)
    assert Image.open(BytesIO(written(Picture(opaque, ""), "JPEG")[0])).mode == "RGB"
    with pytest.raises(PictureError, match=r"RGBA, and JPEG has no transparency: choose \.png"):
        written(Picture(opaque // 2, ""), "JPEG")


def test_cmyk_becomes_srgb_and_says_so() -> None:
    picture = codec.decode(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "JPEG"), "a")
    assert picture.notes == ["CMYK, converted to sRGB"]
    assert picture.pixels[0, 0].tolist() == pytest.approx([255, 0, 0], abs=2)
    profile = ImageCms.ImageCmsProfile(BytesIO(picture.metadata.icc))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    with pytest.raises(PictureError, match="CMYK profile"):
        codec.decode(encoded(Image.new("CMYK", (2, 2)), "JPEG", icc_profile=b"nonsense"), "a")


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_and_said(file_format: str) -> None:
    first, second = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (4, 4), "black")
    data = encoded(first, file_format, save_all=True, append_images=[second])
    picture = codec.decode(data, "a")
    assert picture.notes == ["the first of its 2 frames"]
    assert picture.pixels.min() >= 250


def test_pages_of_a_tiff_are_not_counted_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads all tags of each page again and again: 60,000 pages in 7 MB took 14 seconds."""
    data = encoded(
        Image.new("L", (1, 1)), "TIFF", save_all=True, append_images=99 * [Image.new("L", (1, 1))]
    )
    monkeypatch.setattr(TiffImageFile, "n_frames", property(lambda _: pytest.fail("counted")))
    assert codec.decode(data, "a").notes == ["the first of its 100 frames"]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("back", [None, 0, 149, 100])
def test_pages_of_a_tiff_that_begin_again(
    bits: int, bigtiff: bool, order: str, back: int | None
) -> None:
    """tifffile follows 100 pages or fewer once, and more of them for ever."""
    file = BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=order) as writer:
        for _ in range(150):
            writer.write(np.zeros((1, 1), f"uint{bits}"), contiguous=False, metadata=None)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        places, form = [page.offset for page in tiff.pages], tiff.tiff
        number = struct.unpack_from(form.tagnoformat, data, places[-1])[0]
    if back is not None:
        after = places[-1] + form.tagnosize + number * form.tagsize
        struct.pack_into(form.offsetformat, data, after, places[back])
    assert codec.decode(bytes(data), "a").frames == 150


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 3])
def test_nan_and_infinity_are_refused(bad: float, channels: int) -> None:
    pixels = np.zeros((4, 4, channels), np.float32)
    pixels[1, 2, 0] = bad
    file = BytesIO()
    tifffile.imwrite(file, pixels.squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    with pytest.raises(PictureError, match=r"a\.tif: 1 of its values are NaN or infinite"):
        codec.decode(file.getvalue(), "a.tif")


def test_other_ranges_are_refused() -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.full((4, 4), 3.5, np.float32))
    with pytest.raises(PictureError, match=r"from 3\.5 to 3\.5: scale them to 0 to 1"):
        codec.decode(file.getvalue(), "a")
    file = BytesIO()
    tifffile.imwrite(file, np.full((4, 4), 3, np.uint32))
    with pytest.raises(PictureError, match=r"type uint32: convert it to unsigned 16 bits"):
        codec.decode(file.getvalue(), "a")


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match=r"a: claims 100000 x 100000 = 10,000 megapixels"):
        codec.decode(bomb(100_000, 100_000), "a")
    monkeypatch.setattr(machine, "host_bytes", lambda: 10**8)
    with pytest.raises(PictureError, match=r"4000 x 4000 need 192 MB .* 100 MB are free"):
        codec.decode(bomb(4000, 4000), "a")
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    small, large = (struct.pack("<HHII", 256, 4, 1, width) for width in (8, 10**9))
    assert small in file.getvalue()
    huge = file.getvalue().replace(small, large)
    with pytest.raises(PictureError, match="claims 1000000000 x 8 = 8,000 megapixels"):
        codec.decode(huge, "a")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a: the file is empty"),
        (b"some text", "a: not an image in a format that Pillow reads here"),
        *((byte * count, "a: not an image") for byte in (b"B", b"G", b"\0") for count in (1, 2, 5)),
        (encoded(noise(), "PNG")[:-300], "a: cannot be read as an image"),
        (encoded(noise(), "JPEG")[:-100], "a: cannot be read as an image"),
        (encoded(noise(), "TIFF")[:100], "a: cannot be read as an image"),
    ],
)
def test_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        codec.decode(data, "a")


def test_tiffs_that_lack_most_of_what_they_claim_take_no_memory() -> None:
    """tifffile would fill 4 GB with nothing."""
    data = written(Picture(np.ones((40, 33, 4), np.uint16), ""), "TIFF")[0]
    tall = struct.pack("<HHII", 257, 4, 1, 40)
    assert data.count(tall) == 1
    claims = data.replace(tall, struct.pack("<HHII", 257, 4, 1, 16_711_720))
    with pytest.raises(PictureError, match="1 of its 4209 strips or tiles are there"):
        codec.decode(claims, "a")


def test_what_decoders_say_is_one_line() -> None:
    """libjxl's plug-in says three."""
    with pytest.raises(PictureError, match="a: cannot be read as an image") as raised:
        codec.decode(encoded(noise(), "JXL", use_container=True)[:50], "a")
    assert "\n" not in str(raised.value)


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    assert codec.decode(encoded(noise(), "PNG"), "a.jpg").format == "PNG"


def test_formats_that_cannot_be_written_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_plugin = {k: v for k, v in codec.formats().items() if k != ".jxl"}
    monkeypatch.setattr(codec, "formats", lambda: without_plugin)
    assert codec.writable(".JPG") == "JPEG"
    for suffix, message in (
        (".xyz", r"'\.xyz': name the result \.png"),
        ("", "''"),
        (".psd", r"'\.psd'"),
        (".pdf", r"'\.pdf'"),
        (".ico", r"'\.ico'"),
        (".jxl", "pip install pillow-jxl-plugin"),
    ):
        with pytest.raises(PictureError, match=message):
            codec.writable(suffix)
    with pytest.raises(PictureError, match="cannot be written as WEBP"):
        written(Picture(np.zeros((1, 20_000, 3), np.uint8), ""), "WEBP")
