"""Every cell of the table in docs/restore.md: ``moceir restore`` writes a file, which is read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moceir.pictures import codec, colour, stale
from moceir.pictures.codec import Picture
from moceir.pictures.metadata import Metadata
from tests.pictures.test_codec import exif
from tests.small_network import Restore

DOCS = Path(__file__).parents[2] / "docs" / "restore.md"
SUFFIX = {
    "JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WebP": "webp", "AVIF": "avif", "HEIC": "heic",
    "JPEG 2000": "jp2", "JPEG XL": "jxl", "GIF": "gif", "BMP": "bmp", "PPM": "ppm",
}  # fmt: skip
P3, PQ = (12, 13), (9, 16)
PIXELS = np.random.default_rng(3).integers(0, 65536, (12, 20, 4), dtype=np.uint16)


def cells() -> list[tuple[str, str, str]]:
    """Format, column and content of each cell."""
    lines = DOCS.read_text().split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("| format | bits |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    columns, _, *formats = rows
    return [
        (row[0], column, cell)
        for row in formats
        for column, cell in zip(columns[1:], row[1:], strict=True)
    ]


def test_the_table_is_whole() -> None:
    found = cells()
    assert [name for name, column, _ in found if column == "bits"] == list(SUFFIX)
    assert len(found) == 11 * len(SUFFIX)


def picture(bits: int = 8, channels: int = 3, **metadata: object) -> Picture:
    """For a test of what is kept: the picture as it is restored."""
    pixels = PIXELS[..., :channels].copy()
    if bits == 8:
        pixels = (pixels >> 8).astype(np.uint8)
    elif bits == 32:
        pixels = (pixels / 65535).astype(np.float32)
    return Picture(pixels, "", Metadata(**metadata), bits=bits)


METADATA: dict[str, tuple[str, dict[str, object]]] = {
    # a format that has it, and what it is
    "ICC profile": ("tif", {"icc": colour.profile(P3)}),
    "EXIF": ("png", {"exif": exif(1)[6:]}),
    "XMP": ("png", {"xmp": b"<x:xmpmeta><dc:title>kept</dc:title></x:xmpmeta>"}),
    "captions": (
        "jpg",
        {"photoshop": stale.resource(stale.CAPTIONS, b"\x1c\2\x78\0\4kept")},
    ),
    "texts": ("png", {"png_text": [(b"tEXt", b"Title\0kept")]}),
    "comment": ("jpg", {"comments": (b"kept",)}),
    "dpi": ("png", {"dpi": (200.0, 200.0)}),
}


class Case:
    """Restores with strength 0 what it is given."""

    def __init__(self, folder: Path, restore: Restore, suffix: str) -> None:
        self.folder, self.restore, self.suffix = folder, restore, suffix
        self.result = folder / f"result.{suffix}"

    def write(self, given: Picture, suffix: str) -> Path:
        """The source, lossless in what has losses, so that pixels can be compared."""
        source = self.folder / f"source.{suffix}"
        notes = codec.write(replace(given, lossless=True), source)
        assert notes in ([], ["reduced to 256 colours, which is all that GIF holds"]), notes
        return source

    def run(self, source: Path) -> dict:
        done = self.restore(source, "-o", self.result, "--strength", 0, "--json", "--overwrite")
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return json.loads(line)

    def kept(self, given: Picture, suffix: str | None = None) -> tuple[Picture, list[str]]:
        """The result of a source, of the same format if none is named, and what was said."""
        outcome = self.run(self.write(given, suffix or self.suffix))
        assert outcome["status"] == "restored", outcome
        return codec.read(self.result), outcome["notes"]


@pytest.fixture
def case(tmp_path: Path, restore: Restore, request: pytest.FixtureRequest) -> Case:
    return Case(tmp_path, restore, SUFFIX[request.node.callspec.params["name"]])


@pytest.mark.parametrize(("name", "column", "cell"), cells(), ids=lambda value: str(value))
def test_cell(case: Case, name: str, column: str, cell: str) -> None:
    if column in METADATA:
        check_metadata(case, column, cell)
    else:
        CHECKS[column](case, name, cell)


def check_metadata(case: Case, column: str, cell: str) -> None:
    source, held = METADATA[column]
    ((field, value),) = held.items()
    if cell == "kept":
        again, notes = case.kept(picture(**held))
        found = getattr(again.metadata, field)
        if column == "EXIF":  # TIFF writes it anew
            assert b"Maker" in found and b"2020:01:02 03:04:05" in found
        elif column == "dpi":
            assert found == pytest.approx(value, abs=0.1)
        else:
            assert found == value
        assert case.suffix == "gif" or notes == []
        return
    again, notes = case.kept(picture(**held), source)
    found = getattr(again.metadata, field)
    assert found in (b"", (), [], None) or (cell == "sRGB" and colour.is_srgb(found))
    if cell == "sRGB":
        assert any(note.startswith("its colours were converted to sRGB") for note in notes)
    elif cell == "noted":
        label = {"EXIF": "EXIF data", "XMP": "XMP data", "texts": "texts (Title)"}.get(
            column, column
        )
        assert any("has no place for them" in note and label in note for note in notes), notes
    else:
        assert cell == "dropped" and column == "dpi"


def check_bits(case: Case, name: str, cell: str) -> None:
    held = [int(bits) for bits in cell.split(", ")]
    for bits in held:
        again, notes = case.kept(picture(bits))
        assert again.bits == bits or (name == "PPM" and again.bits == 16)
        if name not in ("JPEG", "GIF"):
            source = codec.read(case.folder / f"source.{case.suffix}")
            assert np.array_equal(again.pixels, source.pixels)
            step = 65535 / (2 ** min(bits, 16) - 1)
            given = picture(bits).pixels.astype(float) * {8: 257, 32: 65535}.get(bits, 1)
            found = again.pixels.astype(float) * {8: 257, 32: 65535}.get(
                again.pixels.itemsize * 8, 1
            )
            assert np.abs(found - given).max() <= step / 2 + 1e-6
            assert notes == []
    if max(held) < 16:
        again, notes = case.kept(picture(16), "png")
        assert again.bits == max(held)
        assert any(note.startswith(f"rounded to {max(held)} bits") for note in notes)
    if max(held) < 32:
        notes = case.kept(picture(32), "tif")[1]
        assert any(note.startswith(f"rounded to {max(held)} bits") for note in notes)


def check_transparency(case: Case, name: str, cell: str) -> None:
    given = picture(channels=4)
    if cell == "kept":
        again, notes = case.kept(given)
        assert notes == [] and np.array_equal(again.pixels, given.pixels)
    elif cell == "reduced":
        again, notes = case.kept(given, "png")
        assert set(np.unique(again.pixels[..., 3])) == {0, 255}
        assert "semi-transparent pixels became opaque or fully transparent" in notes
    else:
        assert cell == "refused"
        outcome = case.run(case.write(given, "png"))
        assert outcome["status"] == "failed" and "has no transparency" in outcome["error"]
        assert not case.result.exists()
        given.pixels[..., 3] = 255
        again, notes = case.kept(given, "png")
        assert notes == [] and again.pixels.shape[2] == 3


def check_other_colours(case: Case, name: str, cell: str) -> None:
    for source in ("avif", "heic", "png"):
        again, notes = case.kept(picture(cicp=P3), source)
        if cell == "kept":
            assert again.metadata.cicp == P3 and notes == []
            assert case.kept(picture(cicp=PQ), source)[0].metadata.cicp == PQ
            continue
        if cell == "profile":
            assert again.metadata.icc == colour.profile(P3) and notes == []
        else:
            assert cell == "sRGB" and any("converted to sRGB" in note for note in notes)
        case.result.unlink()
        outcome = case.run(case.write(picture(cicp=PQ), source))
        assert outcome["status"] == "failed" and "PQ" in outcome["error"]
        assert not case.result.exists()


def check_date(case: Case, name: str, cell: str) -> None:
    assert cell == "kept"
    source = case.write(picture(), "png")
    source.chmod(0o600)
    os.utime(source, (1e9, 1e9))
    assert case.run(source)["status"] == "restored"
    status = case.result.stat()
    assert status.st_mtime == 1e9
    assert os.name == "nt" or status.st_mode & 0o777 == 0o600


CHECKS = {
    "bits": check_bits,
    "transparency": check_transparency,
    "other colours": check_other_colours,
    "date, permissions": check_date,
}
