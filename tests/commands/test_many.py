"""``moceir restore`` and ``moceir degrade`` over many pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from moceir.commands import files
from moceir.commands.main import main
from moceir.inference import planning
from moceir.pictures import codec
from tests.commands.conftest import Interrupted
from tests.small_network import Restore, noise, picture


def degrade(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in ("degrade", "--kind", "noise", *words)])


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_list_of_files(tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        picture(tmp_path / "in" / name)
    Path("list.txt").write_text("in/a.png\nin/sub/b.png\nin/none.png\n")
    result = restore("--files-from", "list.txt", "-o", "out")
    assert result.exit_code == 1
    assert names(Path("out")) == ["in/a.png", "in/sub/b.png"]
    assert "not restored: in/none.png: No such file or directory" in result.output
    stdin = os.fsencode("sub/c.png\0a.png\0")
    result = restore("in", "--files-from", "-", "-0", "-o", "more", stdin=stdin)
    assert result.exit_code == 0, result.output
    assert names(Path("more")) == ["a.png", "sub/c.png"]
    assert "--null is about --files-from" in restore("in", "-0", "-o", "out").output
    missing = restore("-o", "out")
    assert missing.exit_code == 2 and "Missing argument 'INPUT...'" in missing.output


def test_shards_together_restore_everything_once(tmp_path: Path, restore: Restore) -> None:
    for i in range(12):
        picture(tmp_path / "in" / f"{i}.png")
    done = []
    for number in (1, 2, 3):
        words = (tmp_path / "in", "-o", tmp_path / "out", "--shard", f"{number}/3", "--json")
        result = restore(*words)  # it would refuse what another shard has written
        assert result.exit_code == 0, result.output
        done += [json.loads(line)["output"] for line in result.stdout.splitlines()]
    assert sorted(done) == sorted(str(tmp_path / "out" / f"{i}.png") for i in range(12))
    result = restore(tmp_path / "in", "-o", tmp_path / "out", "--shard", "4/3")
    assert result.exit_code == 1 and "give one such as 1/4" in result.output
    assert result.output.endswith("(--shard)\n")


def test_a_run_is_resumed_from_its_manifest(
    tmp_path: Path, restore: Restore, interrupted_at: Interrupted
) -> None:
    for i in range(6):
        picture(tmp_path / "in" / f"{i}.png", 24 + i)
    words = (tmp_path / "in", "-o", tmp_path / "out", "--manifest", tmp_path / "run.jsonl")
    with interrupted_at(3):
        result = restore(*words)
    assert result.exit_code == 130
    assert "stopped: 4 of 6 images left; to resume, repeat the command\n" in result.output
    result = restore(*words)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/run.jsonl: 2 images are done\n" in result.output
    assert names(tmp_path / "out") == [f"{i}.png" for i in range(6)]
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert sorted(line["output"] for line in lines) == [
        str(tmp_path / "out" / f"{i}.png") for i in range(6)
    ]
    (tmp_path / "run.jsonl").write_text("my diary\n")
    result = restore(*words)
    assert "line 1 is not of a manifest: give another file (--manifest)" in result.output


def test_what_is_not_known_ahead_is_not_said(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AHEAD", 1)
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")

    def interrupted(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moceir.inference.restorer.load_model", interrupted)
    result = restore(tmp_path / "in", "-o", tmp_path / "out")
    assert result.output == (
        "stopped after 0 images; to resume, repeat the command with --skip-existing\n"
    )


VIDEOS = {
    "a.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
    "b.mov": b"\0\0\0\x14ftypqt  \0\0\2\0",
    "c.webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1",
    "d.avi": b"RIFF\0\1\0\0AVI LIST",
    "e.mpg": b"\0\0\1\xba\x44\0\4\0",
}


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_is_refused_before_the_network_is_loaded(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(VIDEOS[name])
    (tmp_path / "text.png").write_text("text")
    monkeypatch.setattr("moceir.inference.restorer.load_model", pytest.fail)
    words = (tmp_path / name, tmp_path / "text.png", "-o", tmp_path / "out")
    as_png = (*words, "--ext", "png")
    for result in (restore(*words), restore(*as_png), degrade(*words), degrade(*as_png)):
        assert result.exit_code == 1
        assert f"{tmp_path}/{name}: a video: save its frames as images first" in result.output
        assert "device" not in result.output
    assert not (tmp_path / "out").exists()


def test_of_very_many_failures_the_rest_is_said_at_once(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LISTED", 2)
    for i in range(4):
        (tmp_path / f"{i}.png").write_text("text")
    result = restore(tmp_path, "-o", tmp_path / "out")
    lines = result.output.splitlines()
    said = [line for line in lines if line.startswith("not restored: ")]
    assert len(said) == len(set(said)) == 4
    assert lines[-1] == "4 images were not restored, of which the first are here"


# --- Degrading -----------------------------------------------------------------------------------


def test_degrading_a_folder_keeps_its_tree(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.jpg"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "c.png").write_text("text")
    words = (tmp_path / "in", "-o", tmp_path / "out")
    result = degrade(*words, "--json")
    assert result.exit_code == 1
    assert names(tmp_path / "out") == ["a.png", "sub/b.jpg"]
    statuses = {
        Path(o["input"]).name: o["status"] for o in map(json.loads, result.stdout.splitlines())
    }
    assert statuses == {"a.png": "degraded", "b.jpg": "degraded", "c.png": "failed"}
    assert f"not degraded: {tmp_path}/in/c.png: not an image" in result.stderr
    refused = degrade(*words)
    assert "a.png: already there (and 1 more): choose another name" in refused.output
    assert "a.png: already there, skipped" in degrade(*words, "--skip-existing").output
    planned = degrade(*words, "--suffix", "_x", "--ext", "webp", "--dry-run")
    assert f"{tmp_path}/in/a.png -> {tmp_path}/out/a_x.webp" in planned.output
    assert names(tmp_path / "out") == ["a.png", "sub/b.jpg"]


def test_each_picture_of_a_folder_has_its_own_noise_whatever_is_beside_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (24, 16), "grey").save(tmp_path / name)
    assert degrade(tmp_path, "-o", tmp_path / "both").exit_code == 0
    a, b = (codec.read(tmp_path / "both" / name).pixels for name in ("a.png", "b.png"))
    assert not np.array_equal(a, b)
    assert degrade(tmp_path / "b.png", "-o", tmp_path / "alone").exit_code == 0
    assert np.array_equal(codec.read(tmp_path / "alone" / "b.png").pixels, b)
    assert degrade(tmp_path / "b.png", "-o", tmp_path / "other", "--seed", 1).exit_code == 0
    assert not np.array_equal(codec.read(tmp_path / "other" / "b.png").pixels, b)


def test_degrading_is_noted_and_shared_out(tmp_path: Path) -> None:
    for i in range(8):
        noise().save(tmp_path / f"{i}.png")
    for number in (1, 2):
        words = (tmp_path, "-o", tmp_path / "out", "--shard", f"{number}/2", "--no-recursive")
        assert degrade(*words, "--manifest", tmp_path / f"{number}.jsonl").exit_code == 0
        again = degrade(*words, "--manifest", tmp_path / f"{number}.jsonl")
        assert "images are done" in again.output and again.exit_code == 0
    assert names(tmp_path / "out") == [f"{i}.png" for i in range(8)]
    assert "give one instead of -" in degrade("-", "-o", tmp_path / "x.png").output
