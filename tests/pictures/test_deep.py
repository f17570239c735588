"""Depth, losslessness and alpha of the formats that Pillow reads to 8 bits or otherwise wrongly."""

from __future__ import annotations

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from moceir.errors import PictureError
from moceir.inference.restorer import Restorer
from moceir.pictures import boxes, codec, deep, jp2
from moceir.pictures.codec import Picture
from moceir.pictures.pixels import straight, without_hidden
from tests.pictures.test_codec import encoded, written
from tests.small_network import noise

RNG = np.random.default_rng(5)


def samples(bits: int, channels: int) -> np.ndarray:
    """(12, 20, C) uint16 of so many bits."""
    return RNG.integers(0, 2**bits, (12, 20, channels), dtype=np.uint16)


def stored(file_format: str, pixels: np.ndarray, bits: int) -> bytes:
    """A file without loss."""
    pixels = pixels if bits > 8 else pixels.astype(np.uint8)
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    if file_format == "AVIF":
        return imagecodecs.avif_encode(flat, level=100, bitspersample=bits)
    if file_format == "JPEG2000":
        return imagecodecs.jpeg2k_encode(flat, level=0, bitspersample=bits, codecformat="jp2")
    if file_format == "JXL":
        return imagecodecs.jpegxl_encode(flat, lossless=True, bitspersample=bits)
    file = BytesIO()
    mode = ("L", "LA", "RGB", "RGBA")[pixels.shape[2] - 1] + (f";{bits}" if bits > 8 else "")
    size = pixels.shape[1::-1]
    pillow_heif.from_bytes(mode, size, pixels.tobytes()).save(
        file, quality=-1, chroma=444, matrix_coefficients=0, full_range_flag=1, bit_depth=bits
    )
    return file.getvalue()


def widened(pixels: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(pixels / (2**bits - 1) * 65535)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("file_format", "bits"),
    [
        ("AVIF", 10), ("AVIF", 12), ("HEIF", 10), ("HEIF", 12),
        ("JPEG2000", 10), ("JPEG2000", 12), ("JPEG2000", 16), ("JXL", 10), ("JXL", 12), ("JXL", 16),
    ],
)  # fmt: skip
def test_deep_pictures_are_read_and_written_with_their_depth(
    file_format: str, bits: int, channels: int
) -> None:
    pixels = samples(bits, channels)
    data = stored(file_format, pixels, bits)
    if file_format == "JPEG2000" and channels == 4:  # imagecodecs does not say what alpha is
        stream = data[data.index(b"\xff\x4f\xff\x51") :]
        data = jp2.with_metadata(stream, 4, (20, 12), bits, b"", b"", b"")
    picture = codec.decode(data, "a")
    assert picture.pixels.dtype == np.uint16 and picture.bits == bits
    assert np.array_equal(picture.pixels, widened(pixels, bits))
    for after in ("PNG", "TIFF", file_format):
        again, notes = written(picture, after, quality=None)
        if after == "JXL":
            assert "rounded to 8 bits, which is all that JXL is written with" in notes
            continue
        assert notes == []
        kept = codec.decode(again, "b")
        assert kept.pixels.dtype == np.uint16
        assert np.array_equal(kept.pixels, picture.pixels)
        if after == file_format:
            assert kept.bits == bits
    assert written(picture, "WEBP" if channels == 4 else "JPEG")[1][-1].startswith("rounded to 8")


def test_sixteen_bits_are_rounded_to_twelve_and_it_is_said() -> None:
    picture = Picture(samples(16, 3), "PNG", bits=16)
    for file_format in ("AVIF", "HEIF"):
        data, notes = written(picture, file_format)
        assert notes == [f"rounded to 12 bits, which is all that {file_format} holds"]
        assert codec.decode(data, "a").bits == 12


@pytest.mark.parametrize("white", [255, 1023, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_ppm(white: int, channels: int) -> None:
    pixels = RNG.integers(0, white + 1, (5, 7, channels))
    kind = b"P5" if channels == 1 else b"P6"
    body = pixels.astype(">u2" if white > 255 else np.uint8).tobytes()
    picture = codec.decode(kind + b"\n# by hand\n7 5 %d\n" % white + body, "a")
    if white > 255:
        assert np.abs(picture.pixels - pixels / white * 65535).max() <= 0.5
    data, notes = written(picture, "PPM")
    assert notes == [] and np.array_equal(codec.decode(data, "b").pixels, picture.pixels)
    with pytest.raises(PictureError, match="PPM has no transparency"):
        written(Picture(np.zeros((2, 2, 4), np.uint8), ""), "PPM")


def test_what_is_read_with_fewer_bits_is_said() -> None:
    text = b"P3\n1 1\n65535\n1 2 3\n"
    assert codec.decode(text, "a").notes == ["read with 8 of its 16 bits"]
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4, 4), np.uint16), photometric="separated")
    assert codec.decode(file.getvalue(), "a").notes == [
        "read with 8 of its 16 bits",
        "CMYK, converted to sRGB",
    ]
    sgi = bytearray(encoded(noise(), "SGI", bpc=2))
    assert codec.decode(bytes(sgi), "a").notes == ["read with 8 of its 16 bits"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "HEIF", "JXL"])
def test_lossless_stays_lossless(file_format: str, channels: int) -> None:
    pixels = RNG.integers(0, 256, (12, 20, channels), dtype=np.uint8)
    if file_format == "WEBP":
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        data = encoded(image, "WEBP", lossless=True, exact=True)
    else:
        data = stored(file_format, pixels, 8)
    picture = codec.decode(data, "a")
    grey_webp = file_format == "WEBP" and channels == 1  # which has no grey
    assert np.array_equal(picture.pixels, pixels.repeat(3 if grey_webp else 1, axis=2))
    again = codec.decode(written(picture, file_format, quality=None)[0], "b")
    assert np.array_equal(again.pixels, picture.pixels)
    lossy = codec.decode(written(picture, file_format, quality=50)[0], "b")
    if file_format == "AVIF" and channels == 1:  # always without loss, and never said to be
        assert np.array_equal(lossy.pixels, picture.pixels)
    else:
        assert picture.lossless and again.lossless and not lossy.lossless
        assert not np.array_equal(lossy.pixels, picture.pixels)


@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "HEIF", "JXL"])
def test_lossy_stays_lossy(file_format: str) -> None:
    picture = codec.decode(encoded(noise(), file_format), "a")
    assert not picture.lossless
    assert not codec.decode(written(picture, file_format, quality=None)[0], "a").lossless


def multiplied(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Colours and alpha, and the same multiplied with each other."""
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    alpha = np.tile(np.linspace(0.2, 1, 20), (12, 1))[..., None]
    colour = np.full((12, 20, 3), 0.9)
    pixels = np.concatenate([colour, alpha], axis=2) * white
    product = np.concatenate([colour * alpha, alpha], axis=2) * white
    rounded = [a if white == 1 else np.rint(a) for a in (pixels, product)]
    return rounded[0].astype(dtype), rounded[1].astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
def test_extra_samples_of_tiff(dtype: str, kind: str) -> None:
    pixels, product = multiplied(dtype)
    file = BytesIO()
    held = product if kind == "assocalpha" else pixels
    tifffile.imwrite(file, held, photometric="rgb", extrasamples=[kind])
    picture = codec.decode(file.getvalue(), "a")
    if kind == "unspecified":
        assert np.array_equal(picture.pixels, pixels[..., :3])
        (note,) = picture.notes
        assert note == "its last channel is not marked as transparency and was left out"
        return
    tolerance = {"uint8": 4, "uint16": 4, "float32": 1e-6}[dtype]
    assert picture.notes == [] and np.abs(picture.pixels - pixels.astype(float)).max() <= tolerance
    again = tifffile.TiffFile(BytesIO(written(picture, "TIFF")[0])).pages.first
    assert [int(e) for e in again.extrasamples] == [2]


def test_more_channels_of_tiff_are_left_out_and_said() -> None:
    file = BytesIO()
    pixels = samples(16, 6)
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["unassalpha", 0, 0])
    picture = codec.decode(file.getvalue(), "a")
    assert np.array_equal(picture.pixels, pixels[..., :4])
    assert picture.notes == ["its last 2 channels are not marked as transparency and were left out"]


@pytest.mark.parametrize("bits", [8, 10])
def test_premultiplied_avif(bits: int) -> None:
    """libavif divides, for Pillow and for imagecodecs."""
    pixels, product = multiplied("uint8")
    scale = 1 if bits == 8 else 4
    plain = imagecodecs.avif_encode(
        (product * scale if bits == 8 else product.astype(np.uint16) * scale),
        level=100, bitspersample=bits, matrix=0,
    )  # fmt: skip
    start, end = plain.index(b"auxl") + 4, plain.index(b"auxl") + 10
    alpha, _, colours = struct.unpack(">HHH", plain[start:end])
    link = struct.pack(">I4sHHH", 14, b"prem", colours, 1, alpha)
    data = _with_reference(plain, link)
    picture = codec.decode(data, "a")
    found = picture.pixels / (1 if bits == 8 else 65535 * 4 / 1023)
    assert np.abs(found - pixels).max() <= 4
    assert np.array_equal(codec.decode(plain, "a").pixels[..., 3], picture.pixels[..., 3])


def _with_reference(data: bytes, link: bytes) -> bytes:
    """An AVIF file in whose table of references there is one more."""
    meta = next(b for b in boxes.boxes(data) if b.name == b"meta")
    children = list(boxes.boxes(data, meta.body + 4, meta.end))
    parts = []
    for b in children:
        part = data[b.start : b.end]
        if b.name == b"iref":
            part = boxes.box(b"iref", part[8:], link)
        elif b.name == b"iloc":
            held = [(n, at + len(link), size) for n, at, size in boxes._places(part)]
            entries = [struct.pack(">HHHII", n, 0, 1, at, size) for n, at, size in held]
            part = boxes.box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(held)), *entries)
            assert len(part) == b.end - b.start
        parts.append(part)
    whole = boxes.box(b"meta", data[meta.body : meta.body + 4], *parts)
    return data[: meta.start] + whole + data[meta.end :]


def test_premultiplied_heic_and_jpeg_2000() -> None:
    pixels, product = multiplied("uint8")
    file = BytesIO()
    pillow_heif.from_bytes("RGBa", (20, 12), product.tobytes()).save(
        file, quality=-1, chroma=444, matrix_coefficients=0
    )
    assert np.abs(codec.decode(file.getvalue(), "a").pixels.astype(int) - pixels).max() <= 4
    data = written(Picture(product, ""), "JPEG2000")[0]
    said = struct.pack(">HHH", 3, 1, 0)
    assert said in data
    picture = codec.decode(data.replace(said, struct.pack(">HHH", 3, 2, 0)), "a")
    assert np.abs(picture.pixels.astype(int) - pixels).max() <= 4
    picture = codec.decode(data.replace(said, struct.pack(">HHH", 3, 65535, 65535)), "a")
    assert picture.notes == [deep.UNSTATED] and np.array_equal(picture.pixels, product[..., :3])


def test_division_by_alpha() -> None:
    for dtype in ("uint8", "uint16", "float32"):
        pixels, product = multiplied(dtype)
        white = pixels.dtype.type(1 if dtype == "float32" else np.iinfo(dtype).max)
        product[0, 0] = (white, 0, 0, 0)
        product[0, 1] = (white, white / 2, 0, white / 4)  # more than alpha allows
        result = straight(product)
        assert result[0, 0].tolist() == [0, 0, 0, 0]
        assert result[0, 1, :2].tolist() == [white, white]


def test_other_colour_spaces_of_jpeg_2000_are_refused() -> None:
    data = written(Picture(samples(8, 3).astype(np.uint8), ""), "JPEG2000")[0]
    srgb = b"colr\1\0\0" + struct.pack(">I", 16)
    assert srgb in data
    with pytest.raises(PictureError, match="colour space number 14"):
        codec.decode(data.replace(srgb, srgb[:-1] + b"\x0e"), "a")


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_hidden_colours_do_not_change_what_is_seen(
    restorer: Restorer, channels: int, dtype: str
) -> None:
    """Whatever lies under alpha 0: not one visible pixel changes, and hidden ones stay."""
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    pixels = (RNG.random((40, 48, channels)) * white).astype(dtype)
    pixels[..., -1] = white
    pixels[8:30, 10:40, -1] = 0
    pixels[3, 3, -1] = 0
    pixels[0, 0, -1] = white / 4
    hidden = pixels[..., -1] == 0
    results = []
    for colour in (None, 0, white):
        changed = pixels.copy()
        if colour is not None:
            changed[..., :-1][hidden] = colour
        restored, _ = restorer.restore_pixels(changed)
        assert np.array_equal(restored[hidden], changed[hidden])
        results.append(restored[~hidden])
    assert not np.array_equal(results[0], pixels[~hidden])
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "HEIF", "JXL"])
def test_hidden_colours_do_not_change_what_a_lossy_format_shows(file_format: str) -> None:
    pixels = np.asarray(noise(48, 40).convert("RGBA")).copy()
    pixels[..., 3] = 255
    pixels[8:30, 10:36, 3] = 0
    shown = []
    for colour in (0, 255):
        pixels[8:30, 10:36, :3] = colour
        again = codec.decode(written(Picture(pixels.copy(), ""), file_format)[0], "a").pixels
        shown.append(again[again[..., 3] == 255])
    assert np.array_equal(*shown)


def test_what_takes_the_place_of_hidden_colours() -> None:
    """The nearest visible colours; all hidden: black; nothing hidden: the very array."""
    pixels = np.zeros((1, 5, 9, 4), np.uint8)
    assert not without_hidden(pixels + np.uint8([9, 9, 9, 0])).any()
    pixels[:, :, 0] = (200, 100, 50, 255)
    filled = without_hidden(pixels)
    assert (filled[..., :3] == (200, 100, 50)).all() and (filled[..., 3] == pixels[..., 3]).all()
    opaque = np.full((3, 3, 4), 255, np.uint8)
    assert without_hidden(opaque) is opaque
