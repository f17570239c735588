"""Which picture becomes which file."""

from __future__ import annotations

from pathlib import Path

import pytest

from moceir.commands.jobs import DASH, Job, plan, shown
from moceir.errors import ConfigError
from tests.small_network import picture


def test_folders_keep_their_tree(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "in" / "a.png"), picture(tmp_path / "in" / "sub" / "b.jpg")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    picture(tmp_path / "in" / ".hidden.png")
    picture(tmp_path / "in" / ".thumbnails" / "a.png")
    (tmp_path / "in" / "folder.png").mkdir()
    out = tmp_path / "out"
    everything = [Job(a, out / "a.png"), Job(b, out / "sub" / "b.jpg")]
    assert plan([tmp_path / "in"], out) == (everything, [])
    assert plan([tmp_path / "in"], out, recursive=False) == (everything[:1], [])


def test_names_of_results(tmp_path: Path) -> None:
    a, out = picture(tmp_path / "a.b.png"), tmp_path / "out"
    for ext in ("jpg", ".jpg"):
        jobs, _ = plan([a], out, ext=ext, suffix="_restored")
        assert jobs == [Job(a, out / "a.b_restored.jpg")]
    assert plan([a], tmp_path / "x.png")[0] == [Job(a, tmp_path / "x.png")]


def test_standard_input_and_output(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    assert plan([DASH], DASH)[0] == [Job(None, None)]
    assert plan([a], DASH)[0] == [Job(a, None)]
    assert plan([DASH], tmp_path / "x.jpg")[0] == [Job(None, tmp_path / "x.jpg")]
    assert plan([DASH], tmp_path, ext="webp")[0] == [Job(None, tmp_path / "stdin.webp")]
    with pytest.raises(ConfigError, match="takes one picture, not 2"):
        plan([a, DASH], DASH)


def test_patterns_for_shells_that_leave_them(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a1.png"), picture(tmp_path / "a2.png")
    literal = picture(tmp_path / "a[12].png")
    assert [j.source for j in plan([tmp_path / "a?.png"], tmp_path / "out")[0]] == [a, b]
    assert [j.source for j in plan([literal], tmp_path / "out")[0]] == [literal]
    jobs, (failed,) = plan([tmp_path / "*.xyz"], tmp_path / "out")
    assert jobs == [] and failed.error == f"{tmp_path}/*.xyz: no file matches this pattern"


def test_what_is_missing_does_not_stop_the_rest(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    jobs, missing = plan([tmp_path / "none.png", a, tmp_path / "empty"], tmp_path / "out")
    assert [job.source for job in jobs] == [a]
    assert missing[0].error == f"{tmp_path / 'none.png'}: no such file"
    assert missing[0].input == str(tmp_path / "none.png") and missing[0].status == "failed"
    assert "empty: no pictures in it" in (missing[1].error or "")


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b" / "a.png")
    file = picture(tmp_path / "file.png")
    with pytest.raises(ConfigError, match=r"a\.png and .*b/a\.png would both become"):
        plan([a, b], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"file\.png is a file: give a folder"):
        plan([a, b], file)
    with pytest.raises(ConfigError, match=r"is a whole name: leave --ext and --suffix out"):
        plan([a], tmp_path / "x.png", ext="jpg")
    with pytest.raises(ConfigError, match=r"--suffix '\.\./x': give a part of a name"):
        plan([a], tmp_path / "out", suffix="../x")


def test_the_same_picture_named_twice_is_restored_once(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    assert plan([a, tmp_path / "*.png", tmp_path], tmp_path / "out")[0] == [
        Job(a, tmp_path / "out" / "a.png")
    ]


def test_results_are_not_restored_again(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    picture(tmp_path / "out" / "a.png")
    assert [j.source for j in plan([tmp_path], tmp_path / "out")[0]] == [a]
    b = picture(tmp_path / "beside" / "b.png")
    picture(tmp_path / "beside" / "b_restored.png")
    jobs, _ = plan([b.parent], b.parent, suffix="_restored")
    assert [job.source for job in jobs] == [b]
    assert plan([b], b.parent)[0] == [Job(b, b)]  # in place, if --overwrite allows it


def test_loops_of_links_end(tmp_path: Path) -> None:
    a = picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self.png").symlink_to(tmp_path / "in" / "self.png")
    assert [job.source for job in plan([tmp_path / "in"], tmp_path / "out")[0]] == [a]


def test_names_are_shown_on_one_line() -> None:
    assert shown(Path("a\nb\x1b[31m")) == "a\\nb\\x1b[31m"
    assert shown(Path("日本 'é'.png")) == "日本 'é'.png"
    assert shown(Path("broken\udcff")) == "broken\\udcff"
