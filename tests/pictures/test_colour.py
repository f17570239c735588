"""Colours mean the same before and after, whichever way a file says them, or it is refused."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from moceir.errors import PictureError
from moceir.pictures import boxes, codec, colour, jxl
from moceir.pictures.codec import Picture
from moceir.pictures.metadata import Metadata
from tests.pictures.test_codec import ICC, encoded, written

P3, REC2020, PQ, HLG = (12, 13), (9, 14), (9, 16), (9, 18)
PATCHES = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 80], [90, 160, 200], [128, 128, 128]]],
    np.uint8,
).repeat(8, axis=0).repeat(8, axis=1)  # fmt: skip


def avif(cicp: tuple[int, int], bits: int = 8) -> bytes:
    pixels = PATCHES if bits == 8 else PATCHES.astype(np.uint16) * (2 ** (bits - 8))
    return imagecodecs.avif_encode(
        pixels, level=100, bitspersample=bits, primaries=cicp[0], transfer=cicp[1], matrix=0
    )


def heic(cicp: tuple[int, int]) -> bytes:
    return encoded(
        Image.fromarray(PATCHES), "HEIF", quality=-1, chroma=444, matrix_coefficients=0,
        color_primaries=cicp[0], transfer_characteristics=cicp[1], full_range_flag=1,
    )  # fmt: skip


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(name: bytes, body: bytes, pixels: np.ndarray = PATCHES) -> bytes:
    plain = encoded(Image.fromarray(pixels), "PNG")
    return plain[:33] + chunk(name, body) + plain[33:]


def cicp_png(cicp: tuple[int, int]) -> bytes:
    return png_with(b"cICP", bytes([*cicp, 0, 1]))


SOURCES = {"AVIF": avif, "HEIF": heic, "PNG": cicp_png}


def lab_of(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """CIE L*a*b* of colours that a profile describes: what is seen."""
    profile = ImageCms.ImageCmsProfile(BytesIO(icc or ICC))
    to_lab = ImageCms.buildTransform(
        profile, ImageCms.createProfile("LAB"), "RGB", "LAB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    lab = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels[..., :3])), to_lab)
    assert lab is not None
    return np.asarray(lab).astype(np.int8).astype(int)


@pytest.mark.parametrize("before", SOURCES)
@pytest.mark.parametrize("after", SOURCES)
@pytest.mark.parametrize("cicp", [P3, REC2020, PQ, HLG])
def test_code_points_are_kept_from_any_format_that_has_them_to_any(
    before: str, after: str, cicp: tuple[int, int]
) -> None:
    picture = codec.decode(SOURCES[before](cicp), "a")
    assert picture.metadata.cicp == cicp
    data, notes = written(picture, after)
    assert notes == []
    again = codec.decode(data, "b")
    assert again.metadata.cicp == cicp
    if after == "AVIF":
        assert boxes.nclx(boxes.primary_properties(data))[:2] == cicp
    if after == "PNG":
        assert chunk(b"cICP", bytes([*cicp, 0, 1])) in data
        assert (b"iCCP" in data) == (cicp not in (PQ, HLG))


def test_a_pil_image_from_heic_has_its_colours() -> None:
    with Image.open(BytesIO(heic(P3))) as image:
        picture = codec.picture_of(image)
    assert picture.metadata.cicp == P3
    assert codec.pillow_of(picture).info["icc_profile"] == colour.profile(P3)


@pytest.mark.parametrize("after", ["JPEG", "TIFF", "WEBP", "JPEG2000", "PNG"])
@pytest.mark.parametrize("cicp", [P3, REC2020, (1, 1), (5, 4), (1, 8)])
def test_code_points_become_an_equal_profile(after: str, cicp: tuple[int, int]) -> None:
    picture = codec.decode(avif(cicp), "a")
    data, notes = written(picture, after)
    assert notes == []
    again = codec.decode(data, "b")
    assert again.metadata.icc == colour.profile(cicp)
    assert not colour.is_srgb(again.metadata.icc)
    profile = ImageCms.ImageCmsProfile(BytesIO(again.metadata.icc)).profile
    corners = colour._PRIMARIES[cicp[0]]
    for found, x, y in zip(profile.chromaticity, corners[0::2], corners[1::2], strict=False):
        assert found[:2] == pytest.approx((x, y), abs=1e-3)


def test_profiles_have_the_curves_of_the_standards() -> None:
    """Against lcms's own sRGB, and BT.709's and gamma's values by hand."""
    wide = np.arange(0, 65536, 257, dtype=np.uint16)[None, :, None].repeat(3, axis=2)
    made = colour._matrix_profile(colour._PRIMARIES[1], colour._curve(13))
    assert np.abs(colour.to_srgb(wide, made).astype(int) - wide).max() < 20
    for transfer, value, light in (
        (1, 0.5, 0.2597),
        (4, 0.5, 0.2176),
        (8, 0.5, 0.5),
        (7, 0.5, 0.2651),
    ):
        curve = colour._curve(transfer)
        assert np.interp(value, np.linspace(0, 1, 1024), curve) == pytest.approx(light, abs=2e-3)


@pytest.mark.parametrize("cicp", [PQ, HLG])
@pytest.mark.parametrize("after", ["JPEG", "TIFF", "WEBP", "JPEG2000", "JXL", "BMP", "GIF"])
def test_hdr_is_refused_where_it_cannot_be_said(after: str, cicp: tuple[int, int]) -> None:
    picture = codec.decode(avif(cicp), "a")
    name = {PQ: "PQ", HLG: "HLG"}[cicp]
    with pytest.raises(PictureError, match=rf"{name}.*{after} cannot say.*choose \.png, \.avif"):
        written(picture, after)
    with pytest.raises(PictureError, match=name):
        codec.pillow_of(picture)


def test_unknown_kinds_are_refused() -> None:
    picture = codec.decode(avif((1, 17)), "a")
    with pytest.raises(PictureError, match=r"of the kind 1/17 of ITU-T H\.273"):
        written(picture, "JPEG")
    narrow = codec.decode(png_with(b"cICP", bytes([9, 16, 0, 0])), "a")
    assert chunk(b"cICP", bytes([9, 16, 0, 0])) in written(narrow, "PNG")[0]
    with pytest.raises(PictureError, match=r"cICP.*JPEG cannot say that; choose \.png"):
        written(narrow, "JPEG")


@pytest.mark.parametrize("after", ["JXL", "BMP", "PPM"])
def test_where_there_is_no_profile_colours_become_srgb(after: str) -> None:
    picture = codec.decode(avif(P3), "a")
    data, notes = written(picture, after, **({"quality": 100} if after == "JXL" else {}))
    assert notes == [f"its colours were converted to sRGB: {after} is written without a profile"]
    again = codec.decode(data, "b")
    seen = lab_of(again.pixels, b"")[4, 28::8]  # those within sRGB
    assert np.abs(seen - lab_of(PATCHES, colour.profile(P3))[4, 28::8]).max() <= 3
    plain = Picture(PATCHES, "", Metadata(icc=ICC))
    data, notes = written(plain, after, **({"quality": 100} if after == "JXL" else {}))
    assert notes == []
    if after != "JXL":
        assert np.array_equal(codec.decode(data, "b").pixels, PATCHES)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_conversion_keeps_depth_and_alpha(dtype: str, channels: int) -> None:
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    values = np.random.default_rng(0).integers(0, 256, (4, 5, channels)) / 255 * white
    pixels = values.astype(dtype)
    converted = colour.to_srgb(pixels, colour.profile((1, 8)))  # linear light
    assert converted.dtype == pixels.dtype and converted.shape == pixels.shape
    if channels in (2, 4):
        assert np.array_equal(converted[..., -1], pixels[..., -1])
    light = pixels[..., 0] / white
    curve = np.where(light < 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    if channels < 3:
        assert np.abs(converted[..., 0] / white - curve).max() < 1 / 255


def test_profiles_that_do_not_fit_are_left_out_and_said() -> None:
    for icc in (b"nonsense" * 30, ICC[:16] + b"CMYK" + ICC[20:], ICC[:200]):
        picture = Picture(PATCHES, "", Metadata(icc=icc))
        (note,) = written(picture, "BMP")[1]
        assert note.startswith("its colour profile was left out")


@pytest.mark.parametrize(
    ("gamma", "corners", "usual"),
    [
        (0.45455, None, True),
        (0.45455, colour._PRIMARIES[1], True),
        (1.0, None, False),
        (0.45455, colour._PRIMARIES[9], False),
    ],
)
def test_gamma_and_primaries_of_png(gamma: float, corners: tuple | None, usual: bool) -> None:
    more = chunk(b"gAMA", struct.pack(">I", round(gamma * 1e5)))
    if corners:
        order = (*corners[6:], *corners[:6])
        more += chunk(b"cHRM", struct.pack(">8I", *(round(c * 1e5) for c in order)))
    plain = encoded(Image.fromarray(PATCHES), "PNG")
    picture = codec.decode(plain[:33] + more + plain[33:], "a")
    assert more in written(picture, "PNG")[0]
    icc = codec.decode(written(picture, "TIFF")[0], "b").metadata.icc
    assert (icc == b"") == usual
    if gamma == 1:
        half = np.full((1, 1, 3), 128, np.uint8)
        assert colour.to_srgb(half, icc)[0, 0, 0] == pytest.approx(188, abs=1)
    if corners == colour._PRIMARIES[9]:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc)).profile
        assert profile.chromaticity[0][:2] == pytest.approx((0.708, 0.292), abs=1e-3)


@pytest.mark.parametrize("body", [struct.pack(">I", 1), struct.pack(">I", 2**31)])
def test_a_gamma_that_makes_no_sense_is_refused(body: bytes) -> None:
    picture = codec.decode(png_with(b"gAMA", body), "a")
    assert chunk(b"gAMA", body) in written(picture, "PNG")[0]
    with pytest.raises(PictureError, match="gAMA and cHRM chunks have invalid values"):
        written(picture, "JPEG")


def test_of_two_descriptions_the_one_that_counts_is_kept() -> None:
    """In PNG code points count more than a profile, in AVIF less."""
    plain = encoded(Image.fromarray(PATCHES), "PNG", icc_profile=colour.profile(REC2020))
    picture = codec.decode(plain[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + plain[33:], "a")
    assert codec.decode(written(picture, "AVIF")[0], "b").metadata.cicp == P3
    assert codec.decode(written(picture, "JPEG")[0], "b").metadata.icc == colour.profile(P3)
    data = written(Picture(PATCHES, "", Metadata(icc=colour.profile(REC2020))), "AVIF")[0]
    nclx = data.index(b"nclx") + 4
    assert data[nclx : nclx + 4] == b"\0\2\0\2"
    both = data[:nclx] + struct.pack(">HH", *P3) + data[nclx + 4 :]
    again = codec.decode(both, "a")
    assert again.metadata.cicp is None and again.metadata.icc == colour.profile(REC2020)


def test_linear_jpeg_xl_is_told_from_srgb() -> None:
    wide = PATCHES.astype(np.uint16) * 257
    picture = codec.decode(imagecodecs.jpegxl_encode(wide, lossless=True), "a")  # linear light
    assert picture.pixels.dtype == np.uint16 and picture.bits == 16
    assert not colour.is_srgb(picture.metadata.icc)
    half = np.full((1, 1, 3), 128, np.uint8)
    icc = codec.decode(written(picture, "TIFF")[0], "b").metadata.icc
    assert colour.to_srgb(half, icc)[0, 0, 0] == pytest.approx(188, abs=1)


def test_code_points_within_a_profile() -> None:
    tag = struct.pack(">4sII", b"cicp", 144, 12)
    icc = bytes(128) + struct.pack(">I", 1) + tag + b"cicp\0\0\0\0" + bytes([*PQ, 0, 1])
    assert colour.code_points_of(icc) == PQ
    assert colour.code_points_of(icc[:150]) is None and colour.code_points_of(b"") is None


def test_jpeg_xl_headers_are_read() -> None:
    for pixels, expected in (
        (PATCHES, (8, False)),
        (PATCHES.astype(np.uint16) * 257, (16, False)),
        ((PATCHES / 255).astype(np.float32), (32, True)),
    ):
        for lossless in (True, False):
            data = imagecodecs.jpegxl_encode(
                pixels, **({"lossless": True} if lossless else {"distance": 1.0})
            )
            header = jxl.read(data)
            assert (header.bits, header.floating) == expected and header.lossless == lossless
    with pytest.raises(ValueError, match="cut"):
        jxl.read(b"\xff\x0a\x00")
