"""``moceir restore --only``, ``--auto``, ``--light`` and ``--detail``."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from moceir.commands.main import main
from moceir.data.kinds import KINDS
from tests.browser import SAMPLE
from tests.pictures.test_codec import exif
from tests.small_network import Restore, noise, picture

CLEAN = sorted((SAMPLE.parent / "clean").iterdir())


def restored(*words: object, stdin: bytes | None = None) -> Result:
    """With the bundled weights."""
    command = ["restore", "--device", "cpu", *map(str, words)]
    return CliRunner().invoke(main, command, input=stdin)


def photograph(path: Path, **parameters: object) -> Path:
    with Image.open(CLEAN[-1]) as image:
        image.convert("RGB").crop((0, 0, 256, 256)).save(path, **parameters)
    return path


@pytest.mark.parametrize("words", [[], ["-m", "compact", "--auto"]])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_clean_file_is_copied_byte_for_byte(
    tmp_path: Path, suffix: str, words: list[str]
) -> None:
    source = photograph(tmp_path / f"a.{suffix}", exif=exif(1), quality=97)
    result = restored(source, "-o", tmp_path / f"b.{suffix}", *words, "--json")
    assert result.exit_code == 0
    (line,) = map(json.loads, result.stdout.splitlines())
    assert line["found"] == [] and "found nothing to remove: left as it is" in line["notes"]
    assert (tmp_path / f"b.{suffix}").read_bytes() == source.read_bytes()


def test_a_clean_picture_in_another_format_keeps_its_pixels(tmp_path: Path) -> None:
    source = photograph(tmp_path / "a.png")
    assert restored(source, "-o", tmp_path / "b.tiff", "--auto").exit_code == 0
    assert np.array_equal(Image.open(tmp_path / "b.tiff"), Image.open(source))


def test_through_pipes(tmp_path: Path) -> None:
    data = photograph(tmp_path / "a.png").read_bytes()
    result = restored("-", "-o", "-", "--auto", stdin=data)
    assert result.stdout_bytes == data and "found nothing to remove" in result.stderr


def test_it_says_what_it_found(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", 96, 80)
    noise(96, 80).save(source)
    result = restored(source, "-o", tmp_path / "b.png", "--auto")
    assert result.exit_code == 0 and "; found: " in result.stderr
    assert not np.array_equal(Image.open(tmp_path / "b.png"), Image.open(source))


def test_only(tmp_path: Path, restore: Restore) -> None:
    source = picture(tmp_path / "a.png")
    for name, words in (
        ("all", []),
        ("noise", ["--only", "noise, rain"]),
        ("held", ["--light", "0"]),
        ("lit", ["--detail", "0"]),
    ):
        assert restore(source, "-o", tmp_path / f"{name}.png", *words).exit_code == 0
    results = {(tmp_path / f"{name}.png").read_bytes() for name in ("all", "noise", "held", "lit")}
    assert len(results) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "dust"], "unknown degradation 'dust': give some of noise, rain, haze"),
        (["--only", "noise", "--auto"], "--only and --auto both say what to remove: choose one"),
        (["--light", "2"], "'--light': 2.0 is not in the range 0<=x<=1"),
    ],
)
def test_refused(tmp_path: Path, restore: Restore, words: list[str], message: str) -> None:
    source = picture(tmp_path / "a.png")
    result = restore(source, "-o", tmp_path / "b.png", *words)
    assert result.exit_code != 0 and message in " ".join(result.stderr.split())
    assert not (tmp_path / "b.png").exists()


def test_the_help_names_all_kinds() -> None:
    text = " ".join(CliRunner().invoke(main, ["restore", "--help"]).output.split())
    assert all(kind in text for kind in KINDS)


def test_a_file_of_several_frames_stays_whole(tmp_path: Path) -> None:
    with Image.open(CLEAN[-1]) as image:
        frame = image.convert("RGB").crop((0, 0, 256, 256))
    buffer = BytesIO()
    frame.save(buffer, "TIFF", save_all=True, append_images=[frame])
    (tmp_path / "a.tiff").write_bytes(buffer.getvalue())
    result = restored(tmp_path / "a.tiff", "-o", tmp_path / "b.tiff", "--auto", "--json")
    assert (tmp_path / "b.tiff").read_bytes() == buffer.getvalue()
    assert json.loads(result.stdout)["notes"] == ["found nothing to remove: left as it is"]


def test_bytes_are_copied_only_where_they_are_what_the_name_says(tmp_path: Path) -> None:
    source = photograph(tmp_path / "a.j2k")
    assert restored(source, "-o", tmp_path / "b.jp2", "--auto").exit_code == 0
    assert (tmp_path / "b.jp2").read_bytes()[4:8] == b"jP  "
    source = photograph(tmp_path / "a.jpeg", quality=97)
    assert restored(source, "-o", tmp_path / "b.jpg", "--auto").exit_code == 0
    assert (tmp_path / "b.jpg").read_bytes() == source.read_bytes()
    assert restored(source, "-o", tmp_path / "c.jpg", "--auto", "--quality", 30).exit_code == 0
    assert len((tmp_path / "c.jpg").read_bytes()) < len(source.read_bytes()) / 2


def test_a_copy_has_the_date_and_the_permissions_of_its_source(tmp_path: Path) -> None:
    source = photograph(tmp_path / "a.png")
    source.chmod(0o600)
    os.utime(source, (1e9, 1e9))
    words = (source, "-o", tmp_path / "b.png", "--auto", "--manifest", tmp_path / "m.jsonl")
    assert restored(*words).exit_code == 0
    status = (tmp_path / "b.png").stat()
    assert status.st_mtime == 1e9 and status.st_mode & 0o777 == 0o600
    assert "found nothing to remove" in (tmp_path / "m.jsonl").read_text()
