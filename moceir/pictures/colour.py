"""Colour descriptions, carried from one file format to another.

A file describes its colours in one of three ways: an ICC profile; two code points of ITU-T H.273,
for the primaries and the transfer function (nclx in AVIF and HEIC, cICP in PNG); or PNG's gAMA and
cHRM. A file without a description is sRGB. The description is written in the way that the output
format supports, as an equivalent ICC profile if need be; formats without profiles get sRGB.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import replace

import numpy as np

from moceir.errors import PictureError
from moceir.pictures.metadata import Metadata
from moceir.pictures.stale import of_srgb

SRGB = (1, 13)
"""Code points of its primaries and its transfer function."""

WITH_PROFILE = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000")
"""Formats that hold an ICC profile."""
WITH_CODE_POINTS = ("PNG", "AVIF", "HEIF")

_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_PRIMARIES = {
    # x and y of red, green, blue and white
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65),  # BT.709
    4: (0.670, 0.330, 0.210, 0.710, 0.140, 0.080, *_C),  # NTSC of 1953
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, *_D65),  # BT.601, 625 lines
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),  # BT.601, 525 lines
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *_C),  # film
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),  # BT.2020
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),  # DCI-P3
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),  # Display P3
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65),
}
_HDR = {16: "PQ", 18: "HLG"}


def code_points(primaries: int, transfer: int) -> tuple[int, int] | None:
    """Those of a file, where 2 says nothing; None for sRGB."""
    found = (SRGB[0] if primaries == 2 else primaries, SRGB[1] if transfer == 2 else transfer)
    return None if found == SRGB else found


def _curve(transfer: int) -> np.ndarray | None:
    """Light from 0 to 1 at 1,024 values from 0 to 1; None for what no such curve describes."""
    v = np.linspace(0, 1, 1024)
    if transfer in (1, 6, 14, 15):  # BT.709, BT.601, BT.2020
        return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))
    if transfer == 7:
        return np.where(v < 0.0913, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45))
    if transfer == 13:
        return np.where(v < 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    gamma = {4: 2.2, 5: 2.8, 8: 1.0}.get(transfer)
    return None if gamma is None else v**gamma


@functools.lru_cache(maxsize=16)
def profile(cicp: tuple[int, int]) -> bytes:
    """An ICC profile that means the same as code points; empty for sRGB.

    Raises:
        PictureError: there is none, as for PQ and HLG, which have more light than white.
    """
    primaries, transfer = cicp
    if cicp == SRGB:
        return b""
    corners, curve = _PRIMARIES.get(primaries), _curve(transfer)
    if corners is None or curve is None:
        what = _HDR.get(transfer, f"of the kind {primaries}/{transfer} of ITU-T H.273")
        raise PictureError(f"its colours are {what}, for which there is no ICC profile")
    return _matrix_profile(corners, curve)


def _matrix_profile(corners: tuple[float, ...], curve: np.ndarray) -> bytes:
    import imagecodecs

    table = np.rint(curve * 65535).astype(np.uint16)
    primaries, white = list(corners[:6]), list(corners[6:])
    return imagecodecs.cms_profile(
        "rgb", whitepoint=white, primaries=primaries, transferfunction=table
    )


def _of_png(chunks: dict[bytes, bytes]) -> bytes:
    """The ICC profile of PNG's own numbers; empty for sRGB."""
    if b"cICP" in chunks:
        raise PictureError("its cICP chunk is of a kind that only PNG holds")
    if b"sRGB" in chunks:
        return b""
    gamma, corners = 0.45455, _PRIMARIES[1]
    if len(chunks.get(b"gAMA", b"")) == 4:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 1e5
    if len(chunks.get(b"cHRM", b"")) == 32:
        x, y, *rest = (value / 1e5 for value in struct.unpack(">8I", chunks[b"cHRM"]))
        corners = (*rest, x, y)
    usual = abs(gamma - 0.45455) < 0.001  # which PNG files of sRGB have
    if usual and np.allclose(corners, _PRIMARIES[1], atol=0.0015):
        return b""
    if not 0.1 < gamma < 10 or min(corners) < 0 or max(corners) > 1:
        raise PictureError("its gAMA and cHRM chunks have invalid values")
    curve = _curve(13) if usual else np.linspace(0, 1, 1024) ** (1 / gamma)
    assert curve is not None
    return _matrix_profile(corners, curve)


def described(
    pixels: np.ndarray, metadata: Metadata, file_format: str
) -> tuple[np.ndarray, Metadata, list[str]]:
    """A picture with its colours described in the way that a format supports.

    Args:
        pixels: (H, W, C).

    Returns:
        The pixels, converted to sRGB if the format has no profiles; the metadata, with the code
        points or the profile that the format supports; notes on what was done.

    Raises:
        PictureError: the format supports no description of these colours, and they cannot be
            converted to sRGB.
    """
    cicp, icc = metadata.cicp, metadata.icc
    try:
        if cicp and file_format in WITH_CODE_POINTS:
            if file_format != "PNG":
                icc = b""  # it would count more
            elif not icc and cicp[1] not in _HDR:
                icc = profile(cicp)  # for those who do not know cICP
            return pixels, replace(metadata, icc=icc), []
        if file_format == "PNG":
            return pixels, metadata, []
        if cicp and cicp[1] in _HDR and file_format not in WITH_PROFILE:
            raise PictureError(f"its colours are {_HDR[cicp[1]]}")
        if cicp and not (icc and cicp[1] in _HDR):
            icc = profile(cicp)
        elif not icc:
            icc = _of_png(metadata.png_colour)
    except PictureError as error:
        raise PictureError(
            f"{error}: {file_format} cannot say that; choose .png"
            + ("" if metadata.cicp is None else ", .avif or .heic")
        ) from error
    metadata = replace(metadata, cicp=None, icc=icc if file_format in WITH_PROFILE else b"")
    if not icc or metadata.icc or is_srgb(icc):
        return pixels, metadata, []
    try:
        pixels = to_srgb(pixels, icc)
    except ValueError as error:
        return pixels, metadata, [f"its colour profile was left out ({error})"]
    metadata = replace(metadata, exif=of_srgb(metadata.exif))
    return (
        pixels,
        metadata,
        [f"its colours were converted to sRGB: {file_format} is written without a profile"],
    )


@functools.lru_cache(maxsize=4)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile means sRGB, to a level of 255 and a half."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(16, -1, 3)
    grey = icc[16:20] == b"GRAY"
    colours = np.repeat(cube[..., :1], 3, axis=2) if grey else cube
    try:
        converted = to_srgb(colours[..., :1] if grey else colours, icc)
    except ValueError:
        return False
    return int(np.abs(converted.astype(int) - colours[..., : converted.shape[2]]).max()) <= 1


def to_srgb(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """Colours of (H, W, C) in sRGB, of the same dtype; relative colorimetric.

    Raises:
        ValueError: the profile is damaged, or for other colours.
    """
    import imagecodecs

    space, colours = icc[16:20], pixels[..., : 1 if pixels.shape[2] < 3 else 3]
    grey = colours.shape[2] == 1
    if space not in ((b"GRAY", b"RGB ") if grey else (b"RGB ",)):
        raise ValueError("it is damaged or for other colours")
    if grey and space == b"RGB ":
        colours = np.repeat(colours, 3, axis=2)
    if pixels.dtype == np.float32:
        colours = np.rint(colours * np.float32(65535)).astype(np.uint16)
    try:
        converted = imagecodecs.cms_transform(
            np.ascontiguousarray(colours[..., 0] if space == b"GRAY" else colours),
            icc,
            imagecodecs.cms_profile("srgb"),
            colorspace="gray" if space == b"GRAY" else "rgb",
            outcolorspace="rgb",
            intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
            flags=imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION,
        )
    except imagecodecs.CmsError as error:
        raise ValueError("it is damaged") from error
    if pixels.dtype == np.float32:
        converted = converted.astype(np.float32) / np.float32(65535)
    result = pixels.copy()
    result[..., : 1 if grey else 3] = converted[..., :1] if grey else converted
    return result


def code_points_of(icc: bytes) -> tuple[int, int] | None:
    """Those that an ICC profile of version 4.4 says itself to stand for."""
    if len(icc) < 132:
        return None
    (tags,) = struct.unpack_from(">I", icc, 128)
    for place in range(132, min(132 + 12 * tags, len(icc) - 11), 12):
        name, offset, _ = struct.unpack_from(">4sII", icc, place)
        if name == b"cicp" and offset + 12 <= len(icc):
            return code_points(icc[offset + 8], icc[offset + 9])
    return None
