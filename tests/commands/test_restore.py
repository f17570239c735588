"""``moceir restore`` as people meet it, with all that can go wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from moceir.inference.batch import restore_files
from moceir.inference.planning import plan_files
from moceir.inference.restorer import Restorer
from moceir.pictures import codec
from tests.commands.conftest import Interrupted
from tests.pictures.test_codec import ICC, bomb, exif
from tests.small_network import Restore, noise, picture


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_line_of_json_for_each_picture(tmp_path: Path, restore: Restore) -> None:
    picture(tmp_path / "in" / "a.png", 40, 30)
    picture(tmp_path / "in" / "b.png", 300, 200, "L")
    (tmp_path / "in" / "c.png").write_text("text")
    result = restore(tmp_path / "in", "-o", tmp_path / "out", "--json", "--tile", 256)
    assert result.exit_code == 1
    a, b, c = sorted(map(json.loads, result.stdout.splitlines()), key=lambda line: line["input"])
    assert a.pop("seconds") >= 0 and a.pop("peak_memory_bytes") > 10**6
    experts = a.pop("experts")
    assert len(experts) == 1 and len(experts[0]) == 1 and experts[0][0] in (1, 2, 3, 4)
    assert a == {
        "input": str(tmp_path / "in" / "a.png"),
        "output": str(tmp_path / "out" / "a.png"),
        "status": "restored",
        "width": 40,
        "height": 30,
        "channels": "RGB",
        "bits": 8,
        "device": "cpu",
        "backend": a["backend"],
        "precision": "float32",
        "tile": 0,
        "tile_overlap": 0,
        "notes": [],
    }
    assert a["backend"] in ("cpu", "reference")
    assert (b["channels"], b["tile"], b["tile_overlap"], len(b["experts"])) == ("grey", 256, 64, 2)
    assert c["status"] == "failed" and "c.png: not an image" in c["error"]
    assert "not restored:" in result.stderr and "c.png: not an image" in result.stderr


def test_standard_input_to_standard_output(tmp_path: Path, restore: Restore) -> None:
    expected = tmp_path / "b.jpg"
    source = picture(tmp_path / "a.jpg")
    assert restore(source, "-o", expected).exit_code == 0
    result = restore("-", "-o", "-", stdin=source.read_bytes())
    assert result.exit_code == 0
    assert result.stdout_bytes == expected.read_bytes()
    result = restore(source, "-o", "-", "--ext", "png")
    assert Image.open(BytesIO(result.stdout_bytes)).format == "PNG"
    result = restore("-", "-o", "-", stdin=b"nothing")
    assert result.exit_code == 1 and result.stdout_bytes == b""
    assert "-: not an image" in result.stderr
    assert "choose one" in restore("-", "-o", "-", "--json").output


def test_strength_blends(tmp_path: Path, restore: Restore) -> None:
    source = picture(tmp_path / "a.png")
    values = {}
    for strength in (0, 0.5, 1):
        target = tmp_path / f"{strength}.png"
        assert restore(source, "-o", target, "--strength", strength).exit_code == 0
        values[strength] = np.asarray(Image.open(target)).astype(int)
    assert np.array_equal(values[0], np.asarray(Image.open(source)))
    assert not np.array_equal(values[0], values[1])
    assert np.abs(values[0.5] - (values[0] + values[1]) / 2).max() <= 1


def test_quality_is_used(tmp_path: Path, restore: Restore) -> None:
    source = picture(tmp_path / "a.jpg", 64, 64)
    for quality in (30, 95):
        target = tmp_path / f"{quality}.jpg"
        assert restore(source, "-o", target, "--quality", quality).exit_code == 0
    assert (tmp_path / "30.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size / 2


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (129, 7)])
def test_any_size(tmp_path: Path, restore: Restore, size: tuple[int, int]) -> None:
    source = picture(tmp_path / "a.png", *size)
    assert restore(source, "-o", tmp_path / "b.png").exit_code == 0
    assert Image.open(tmp_path / "b.png").size == size


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_and_are_used(
    tmp_path: Path, restore: Restore, suffix: str
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    with open(source, "wb") as file:
        codec.encode(codec.Picture(pixels, ""), file, codec.writable(source.suffix))
    assert restore(source, "-o", target).exit_code == 0
    read = (
        imagecodecs.png_decode(target.read_bytes()) if suffix == "png" else tifffile.imread(target)
    )
    assert read.dtype == np.uint16 and read.shape == (20, 30, 4)
    assert np.array_equal(read[..., 3], pixels[..., 3])
    assert (read[..., :3] % 257 != 0).mean() > 0.5  # not 8 bits in disguise


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK"])
def test_pictures_as_they_come(tmp_path: Path, restore: Restore, mode: str) -> None:
    image = noise().convert(mode)
    if mode.endswith("A"):
        image.putalpha(noise().getchannel("R"))
    suffix = "tif" if mode == "CMYK" else "png"
    image.save(tmp_path / f"a.{suffix}")
    result = restore(tmp_path / f"a.{suffix}", "-o", tmp_path / f"b.{suffix}")
    assert result.exit_code == 0, result.output
    restored = Image.open(tmp_path / f"b.{suffix}")
    assert restored.mode == {"P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    if mode.endswith("A"):
        assert restored.getchannel("A").tobytes() == noise().getchannel("R").tobytes()


WIDE_PRIMARIES = {  # XYZ under D50, of Display P3
    b"rXYZ": (0.5151, 0.2412, -0.0011),
    b"gXYZ": (0.2920, 0.6922, 0.0419),
    b"bXYZ": (0.1571, 0.0666, 0.7841),
}


def wide_gamut() -> bytes:
    """A colour profile that is sRGB's but for its primaries."""
    profile = bytearray(ICC)
    for entry in range(struct.unpack_from(">I", profile, 128)[0]):
        name, place, _ = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        if name in WIDE_PRIMARIES:
            numbers = (round(65536 * value) for value in WIDE_PRIMARIES[name])
            struct.pack_into(">3i", profile, place + 8, *numbers)
    return bytes(profile)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_photo_is_turned_once_and_keeps_its_metadata_and_colours(
    tmp_path: Path, restore: Restore, suffix: str
) -> None:
    source, target = tmp_path / "a.jpg", tmp_path / f"b.{suffix}"
    xmp, icc = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a dc:title="ok"/></x:xmpmeta>', wide_gamut()
    noise().save(source, exif=exif(6), xmp=xmp, icc_profile=icc)
    with Image.open(source) as image:
        upright = ImageOps.exif_transpose(image)
    orange = Image.new("RGB", (1, 1), (200, 100, 50))
    wide = ImageCms.ImageCmsProfile(BytesIO(icc))
    in_srgb = ImageCms.profileToProfile(orange, wide, ImageCms.createProfile("sRGB"))
    assert in_srgb.getpixel((0, 0))[0] > 205  # a conversion of the colours would be seen

    result = restore(source, "-o", target, "--strength", 0, "--json")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    assert (line["width"], line["height"], line["notes"]) == (16, 24, [])
    with Image.open(target) as restored:
        restored.load()
    assert restored.size == (16, 24)
    assert restored.tobytes() == upright.tobytes()
    assert restored.info["icc_profile"] == icc
    tags = restored.getexif()
    assert tags.get(0x0112, 1) == 1 and tags[0x010F] == "Maker"
    assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    if suffix == "png":
        assert restored.info["exif"] == exif(1)
        assert restored.info["XML:com.adobe.xmp"].encode() == xmp
    else:
        assert restored.tag_v2[700] == xmp


def test_of_several_frames_the_first_and_that_is_said(tmp_path: Path, restore: Restore) -> None:
    first, second = Image.new("RGB", (24, 16), "white"), Image.new("RGB", (24, 16), "black")
    source, said = tmp_path / "a.gif", "the first of its 2 frames"
    first.save(source, save_all=True, append_images=[second])
    result = restore(source, "-o", tmp_path / "b.png", "--strength", 0, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["notes"] == [said]
    assert Image.open(tmp_path / "b.png").getcolors() == [(24 * 16, (255, 255, 255))]
    result = restore(source, "-o", tmp_path / "c.png")
    assert result.exit_code == 0 and result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if "c.png" in line)
    assert line.endswith(f"; {said}")


def test_precision(tmp_path: Path, restore: Restore) -> None:
    source, pixels = picture(tmp_path / "a.png"), {}
    for precision in ("float32", "bfloat16"):
        target = tmp_path / f"{precision}.png"
        result = restore(source, "-o", target, "--precision", precision, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["precision"] == precision
        assert f", {precision}; " in result.stderr
        pixels[precision] = np.asarray(Image.open(target)).astype(int)
    difference = np.abs(pixels["bfloat16"] - pixels["float32"])
    assert 0 < difference.mean() < 0.02 * 255
    result = restore(source, "-o", tmp_path / "b.png", "--precision", "int8")
    assert result.exit_code == 2 and "'int8' is not one of" in result.output


def test_tiles_and_their_overlap(tmp_path: Path, restore: Restore) -> None:
    source = picture(tmp_path / "a.png", 400, 100)
    for overlap, tiles in ((0, 2), (100, 3)):
        words = ("-t", 256, "--tile-overlap", overlap, "--json")
        result = restore(source, "-o", tmp_path / f"{overlap}.png", *words)
        assert result.exit_code == 0, result.output
        line = json.loads(result.stdout)
        assert (line["tile"], line["tile_overlap"], len(line["experts"])) == (256, overlap, tiles)
        assert Image.open(tmp_path / f"{overlap}.png").size == (400, 100)
    result = restore(source, "-o", tmp_path / "b.png", "-t", 256, "--tile-overlap", 200)
    assert result.exit_code == 1
    assert "tile 256 is too small" in result.output and "at least 328" in result.output


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_jobs_write_at_once(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    encode, together, threads = codec.encode, threading.Barrier(jobs), set()

    def watched(*args: object) -> list[str]:
        together.wait(60)
        threads.add(threading.get_ident())
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "encode", watched)
    result = restore(tmp_path / "in", "-o", tmp_path / "out", "--jobs", jobs)
    assert result.exit_code == 0, result.output
    assert len(threads) == jobs
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.png"]


def test_folders_in_a_folder_if_they_are_wanted(tmp_path: Path, restore: Restore) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "sub" / "b.png")
    for i, (word, expected) in enumerate(
        [
            ((), ["a.png", "sub"]),
            (("--recursive",), ["a.png", "sub"]),
            (("--no-recursive",), ["a.png"]),
            (("-R",), ["a.png"]),
        ]
    ):
        out = tmp_path / str(i)
        assert restore(tmp_path / "in", "-o", out, *word).exit_code == 0
        assert names(out) == expected
        if "sub" in expected:
            assert names(out / "sub") == ["b.png"]
    (tmp_path / "in" / "a.png").unlink()
    result = restore(tmp_path / "in", "-o", tmp_path / "out", "-R")
    assert result.exit_code == 1 and "search its subfolders too (--recursive)" in result.output


def test_weights_in_a_folder(tmp_path: Path, restore: Restore, restorer: Restorer) -> None:
    source, hub = picture(tmp_path / "a.png"), tmp_path / "hub"
    restorer.model.save_pretrained(hub)
    assert restore(source, "-o", tmp_path / "b.png").exit_code == 0
    assert restore(source, "-o", tmp_path / "c.png", "-m", hub).exit_code == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    (hub / "model.safetensors").unlink()
    result = restore(source, "-o", tmp_path / "d.png", "-m", hub)
    assert result.exit_code == 1 and str(hub) in result.output


def test_going_on_with_skip_existing(tmp_path: Path, restore: Restore) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "b.png")
    words = (tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert restore(*words).exit_code == 0
    (tmp_path / "out" / "b.png").unlink()
    before = (tmp_path / "out" / "a.png").stat()
    assert (
        "a.png: already there: choose another name, or add --skip-existing or --overwrite"
        in restore(*words).output
    )
    lines = restore(*words, "--skip-existing").stdout.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["skipped", "restored"]
    assert (tmp_path / "out" / "a.png").stat() == before
    assert restore(*words, "--skip-existing").exit_code == 0
    assert "choose one" in restore(*words, "--skip-existing", "--overwrite").output


def test_a_result_that_appears_while_it_is_encoded_is_kept(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = picture(tmp_path / "a.png"), tmp_path / "out" / "b.png"
    encode = codec.encode

    def slow(*args: object) -> list[str]:
        target.parent.mkdir(exist_ok=True)
        target.write_text("precious")
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "encode", slow)
    result = restore(source, "-o", target)
    assert result.exit_code == 1
    assert f"not restored: {target}: appeared in the meantime and was kept" in result.output
    assert target.read_text() == "precious"
    assert names(target.parent) == ["b.png"]
    assert restore(source, "-o", target, "--overwrite").exit_code == 0
    assert Image.open(target).size == (24, 16)


def test_dry_run_does_nothing(tmp_path: Path, restore: Restore) -> None:
    source = picture(tmp_path / "a.png")
    result = restore(source, "-o", tmp_path / "out", "--suffix", "_x", "--dry-run")
    assert result.exit_code == 0
    assert f"{source} -> {tmp_path}/out/a_x.png" in result.output
    assert names(tmp_path) == ["a.png"]
    result = restore(source, "-o", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(result.stdout)["status"] == "planned"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "empty.png: the file is empty"),
        ("text.png", b"some text\n", "text.png: not an image"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "cut.png: "),
        ("bomb.png", bomb(100_000, 100_000), "claims 100000 x 100000 = 10,000 megapixels"),
        (
            "raw.cr2",
            b"II*\0",
            "no image format is written as '.cr2': name the result .png (--ext)",
        ),
    ],
)
def test_malformed_files_are_named_and_the_rest_is_restored(
    tmp_path: Path, restore: Restore, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    good = picture(tmp_path / "good.png")
    result = restore(tmp_path / name, good, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output
    assert names(tmp_path / "out") == ["good.png"]


def test_a_folder_named_like_a_picture_and_what_is_no_file(
    tmp_path: Path, restore: Restore
) -> None:
    (tmp_path / "x.png").mkdir()
    assert "x.png: no images in it" in restore(tmp_path / "x.png", "-o", tmp_path / "o").output
    os.mkfifo(tmp_path / "pipe.png")
    result = restore(tmp_path / "pipe.png", "-o", tmp_path / "o")
    assert result.exit_code == 1 and "pipe.png: not a file; pipe it into" in result.output
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    result = restore(tmp_path / "loop.png", "-o", tmp_path / "o")
    assert result.exit_code == 1 and "loop.png: Too many levels of symbolic" in result.output


def test_names_in_a_folder_that_lead_to_no_file_are_said(tmp_path: Path, restore: Restore) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    result = restore(tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 1
    for reason in ("gone.png: No such file", "loop.png: Too many levels", "pipe.png: not a file"):
        assert reason in result.output
    assert names(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize(
    "name", ["a b", 'it\'s "quoted"', "new\nline", "日本語 עברית é", "x" * 240, "\N{CAMERA}" * 60]
)
def test_any_name(tmp_path: Path, restore: Restore, name: str) -> None:
    source = picture(tmp_path / "in" / f"{name}.png")
    result = restore(source, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["input"] == str(source)
    assert names(tmp_path / "out") == [f"{name}.png"]
    assert restore(source, "-o", tmp_path / "again").exit_code == 0


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do anything: becomes somebody else, whom rights bind, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def owned_by_nobody(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, 65534, 65534)


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody can reach."""
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_write_protected_and_unreadable_folders_are_named(
    open_path: Path, restorer: Restorer
) -> None:
    picture(open_path / "in" / "a.png")
    closed, locked = open_path / "in" / "closed", open_path / "locked"
    for folder, mode in ((closed, 0o000), (locked, 0o500)):
        folder.mkdir()
        owned_by_nobody(folder)
        folder.chmod(mode)
    with as_nobody():
        errors: list[str | None] = []
        plan = plan_files([open_path / "in"], locked)
        restore_files(plan, restorer, report=lambda outcome: errors.append(outcome.error))
    assert sorted(map(str, errors)) == [
        f"{closed}: Permission denied",
        f"{locked}/a.png: Permission denied",
    ]
    assert names(locked) == []
    closed.chmod(0o700)
    locked.chmod(0o700)


def test_a_folder_that_may_not_be_searched_does_not_stop_the_rest(
    open_path: Path, restore: Restore, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "moceir.inference.restorer.Restorer", lambda *given: restorer
    )  # nobody may not load
    picture(open_path / "in" / "a.png")
    picture(open_path / "in" / "sub" / "b.png")
    picture(open_path / "elsewhere" / "c.png")
    for link in (open_path / "in" / "linked.png", open_path / "link.png"):
        link.symlink_to(open_path / "elsewhere" / "c.png")
    out = open_path / "out"
    closed = [out / "sub", open_path / "elsewhere"]
    for folder in (out, *closed):
        folder.mkdir(exist_ok=True)
        owned_by_nobody(folder)
    for folder in closed:
        folder.chmod(0o000)
    words = (open_path / "in", open_path / "link.png", "-o", out, "--json")
    try:
        with as_nobody():
            results = [restore(*words), restore(*words, "--skip-existing")]
    finally:
        for folder in closed:
            folder.chmod(0o700)
    for result, first in zip(results, ("restored", "skipped"), strict=True):
        assert result.exit_code == 1, result.output
        lines = {line["input"]: line for line in map(json.loads, result.stdout.splitlines())}
        assert {Path(name).name: line["status"] for name, line in lines.items()} == {
            "a.png": first,
            "b.png": "failed",
            "link.png": "failed",
            "linked.png": "failed",
        }
        assert f"not restored: {out}/sub/b.png: Permission denied" in result.stderr
        for link in ("link.png", "in/linked.png"):
            assert f"not restored: {open_path}/{link}: Permission denied" in result.stderr
    assert names(out) == ["a.png", "sub"] and names(out / "sub") == []


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--skip-existing",), ("--dry-run",)])
def test_too_long_a_name_does_not_stop_the_rest(
    tmp_path: Path, restore: Restore, more: tuple[str, ...]
) -> None:
    picture(tmp_path / "in" / f"{'x' * 240}.png")
    picture(tmp_path / "in" / "a.png")
    if more:
        (tmp_path / "out").mkdir()
    result = restore(tmp_path / "in", "-o", tmp_path / "out", "--suffix", "_" + "y" * 20, *more)
    assert result.exit_code == 1
    (failure,) = (line for line in result.stderr.splitlines() if line.startswith("not restored"))
    assert failure.endswith("y.png: File name too long")
    if more != ("--dry-run",):
        assert names(tmp_path / "out") == [f"a_{'y' * 20}.png"]


@contextmanager
def full_disk(folder: Path) -> Iterator[str]:
    """Lets 64 KiB be written below a folder; yields what is then said."""
    mounted = (
        sys.platform == "linux"
        and os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
        ).returncode
        == 0
    )
    if mounted:
        try:
            yield "No space left on device"
        finally:
            subprocess.run(["umount", folder], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_part_of_a_picture(tmp_path: Path, restore: Restore) -> None:
    large, small = picture(tmp_path / "a.png", 200, 200), picture(tmp_path / "b.png")
    out = tmp_path / "out"
    out.mkdir()
    with full_disk(out) as message:
        result = restore(large, small, "-o", out)
        # Pictures are written side by side: b.png has no room while a part of a.png takes all.
        assert set(names(out)) <= {"b.png"}
        restore(small, "-o", out, "--overwrite")
        assert names(out) == ["b.png"]
        assert Image.open(out / "b.png").size == (24, 16)
    assert result.exit_code == 1
    assert f"out/a.png: {message}" in result.output


def test_ctrl_c_finishes_cleanly_and_says_how_to_go_on(
    tmp_path: Path, restore: Restore, interrupted_at: Interrupted
) -> None:
    for width, name in enumerate("abcdefgh", 24):  # no two of a size, so that each goes alone
        picture(tmp_path / "in" / f"{name}.png", width)
    words = (tmp_path / "in", "-o", tmp_path / "out")
    with interrupted_at(4):
        result = restore(*words)
    assert result.exit_code == 130
    assert "stopped: 5 of 8 images left; to resume, repeat the command with --skip-existing" in (
        result.output
    )
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert restore(*words, "--skip-existing").exit_code == 0
    assert names(tmp_path / "out") == [f"{name}.png" for name in "abcdefgh"]


@pytest.mark.parametrize("skip", [True, False])
def test_another_process_was_there_before(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    """Two that go on with one folder: neither replaces nor fails for what the other has done."""
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png")
    restore_batch = Restorer.restore_batch

    def meanwhile(*args: object, **settings: object) -> object:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "a.png").write_text("of the other process")
        return restore_batch(*args, **settings)

    monkeypatch.setattr(Restorer, "restore_batch", meanwhile)
    more = ("--skip-existing",) if skip else ()
    result = restore(tmp_path / "in", "-o", tmp_path / "out", *more)
    assert result.exit_code == (0 if skip else 1)
    said = "a.png: already there, skipped" if skip else "appeared in the meantime and was kept"
    assert said in result.output
    assert (tmp_path / "out" / "a.png").read_text() == "of the other process"
    assert names(tmp_path / "out") == ["a.png", "b.png"]


def test_two_processes_go_on_with_one_folder(tmp_path: Path, weights: Path) -> None:
    for i in range(12):
        picture(tmp_path / "in" / f"{i}.png", 24 + i)
    words = [str(w) for w in ("restore", tmp_path / "in", "-o", tmp_path / "out", "-m", weights)]
    script = "import sys; from moceir.commands.main import main; main(sys.argv[1:])"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, *words, "--skip-existing"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert names(tmp_path / "out") == sorted(f"{i}.png" for i in range(12))
    for i in range(12):
        assert Image.open(tmp_path / "out" / f"{i}.png").size == (24 + i, 16)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("moceir.inference.planning.plan_files", "stopped"),
        (
            "moceir.inference.restorer.load_model",
            "stopped: 3 of 3 images left; to resume, repeat the command with --skip-existing",
        ),
    ],
)
def test_ctrl_c_before_the_first_picture(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")

    def interrupted(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    result = restore(tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert result.output == f"{message}\n"
    assert names(tmp_path) == ["in"]


KILLED = """
import os, signal, sys
from pathlib import Path
from moceir.commands.main import main

def half(path, data):
    with open(path, "wb") as file:
        file.write(b"half a picture")
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = half
main(sys.argv[1:])
"""


def test_killed_while_writing_nothing_is_damaged(
    tmp_path: Path, weights: Path, restore: Restore
) -> None:
    source, target = picture(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    target.parent.mkdir()
    target.write_text("precious")
    words = [str(w) for w in ("restore", source, "-o", target, "-m", weights, "--overwrite")]
    process = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert process.returncode == -signal.SIGKILL
    assert target.read_text() == "precious"
    left = [name for name in names(target.parent) if name != "a.png"]
    assert len(left) == 1 and left[0].startswith(".a.png.") and left[0].endswith(".part")
    # What is left is not taken for a picture, and goes when the same result is written.
    (tmp_path / "a.png").rename(target)
    assert restore(target.parent, "-o", tmp_path / "again").exit_code == 0
    assert names(tmp_path / "again") == ["a.png"]
    assert restore(target, "-o", target, "--overwrite").exit_code == 0
    assert names(target.parent) == ["a.png"]
    assert Image.open(target).size == (24, 16)


def test_unexpected_errors_are_one_line_and_a_traceback_with_debug(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **settings: object) -> object:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(Restorer, "restore_batch", broken)
    source = picture(tmp_path / "a.png")
    result = restore(source, "-o", tmp_path / "b.png")
    assert result.exit_code == 1
    assert "a.png: unexpected RuntimeError: what nobody thought of (moceir --debug" in result.output
    assert "Traceback" not in result.output
    result = restore(source, "-o", tmp_path / "b.png", before=("--debug",))
    assert "Traceback" in result.output and "in broken" in result.output


def test_completion_knows_the_options() -> None:
    script = "from moceir.commands.main import main; main(prog_name='moceir')"
    environment = {
        **os.environ,
        "_MOCEIR_COMPLETE": "bash_complete",
        "COMP_WORDS": "moceir restore --skip",
        "COMP_CWORD": "2",
    }
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout == "plain,--skip-existing\n"


def test_a_private_photo_stays_private_and_keeps_its_date(tmp_path: Path, restore: Restore) -> None:
    source, target = picture(tmp_path / "a.png"), tmp_path / "b.png"
    source.chmod(0o600)
    os.utime(source, (10**9, 10**9))
    assert restore(source, "-o", target).exit_code == 0
    assert restore(source, "-o", source, "--overwrite").exit_code == 0
    for path in (source, target):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_mtime == 10**9


def test_pictures_by_other_names_in_a_folder(tmp_path: Path, restore: Restore) -> None:
    for name in ("a.jfif", "b.jpe"):
        noise().save(tmp_path / name, "JPEG")
    (tmp_path / "in").mkdir()
    noise().save(tmp_path / "c.gif")
    result = restore(tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "out") == ["a.jfif", "b.jpe", "c.gif"]
    assert "c.gif: 24 x 16" in result.output and "reduced to 256 colours" in result.output


def test_closed_standard_streams_are_named(tmp_path: Path) -> None:
    script = "from moceir.commands.main import main; main(prog_name='moceir')"
    source = picture(tmp_path / "a.png")
    for words, closed, message in (
        (("-", "-o", "b.png"), "<&-", "-: standard input is closed"),
        ((str(source), "-o", "-"), ">&-", "-: standard output is closed"),
    ):
        result = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", script, "restore", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert result.returncode == 1 and message in result.stderr


def test_json_has_a_line_for_what_is_missing(tmp_path: Path, restore: Restore) -> None:
    source = picture(tmp_path / "a.png")
    result = restore(source, tmp_path / "none.png", "-o", tmp_path / "out", "--json")
    lines = {line["input"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert lines[str(source)]["status"] == "restored"
    assert lines[str(tmp_path / "none.png")]["status"] == "failed"
    assert lines[str(tmp_path / "none.png")]["error"].endswith("none.png: no such file")


def test_nobody_reads_the_json(tmp_path: Path, weights: Path) -> None:
    sources = [str(picture(tmp_path / f"{i}.png", 24 + i)) for i in range(8)]
    script = "from moceir.commands.main import main; main(prog_name='moceir')"
    words = ["restore", *sources, "-o", str(tmp_path / "out"), "-m", str(weights), "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-c", script, *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(writer)
    assert result.returncode == 1
    left = 8 - len(names(tmp_path / "out"))
    assert 0 < left < 8
    assert (
        f"stopped because standard output was closed: {left} of 8 images left; to resume, "
        "repeat the command with --skip-existing"
    ) in result.stderr
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
