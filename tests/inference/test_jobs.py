"""Which picture becomes which file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moce_kernels.failures import BackendUnavailableError, KernelUnavailableError
from moceir.errors import ConfigError, PictureError
from moceir.files import shown
from moceir.inference.jobs import DASH, Job, Outcome
from moceir.inference.planning import plan_files
from tests.small_network import picture


def jobs(*args: Any, **settings: Any) -> list[Job]:
    return [item for item in plan_files(*args, **settings) if isinstance(item, Job)]


def settled(*args: Any, **settings: Any) -> list[Outcome]:
    return [item for item in plan_files(*args, **settings) if isinstance(item, Outcome)]


def test_folders_keep_their_tree(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "in" / "a.png"), picture(tmp_path / "in" / "sub" / "b.jpg")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    picture(tmp_path / "in" / ".hidden.png")
    picture(tmp_path / "in" / ".thumbnails" / "a.png")
    (tmp_path / "in" / "folder.png").mkdir()
    out = tmp_path / "out"
    everything = [Job(a, out / "a.png"), Job(b, out / "sub" / "b.jpg")]
    assert list(plan_files([tmp_path / "in"], out)) == everything
    assert list(plan_files(str(tmp_path / "in"), str(out))) == everything
    assert list(plan_files([tmp_path / "in"], out, recursive=False)) == everything[:1]


def test_names_of_results(tmp_path: Path) -> None:
    a, out = picture(tmp_path / "a.b.png"), tmp_path / "out"
    for ext in ("jpg", ".jpg"):
        planned = jobs([a], out, ext=ext, suffix="_restored")
        assert planned == [Job(a, out / "a.b_restored.jpg")]
    assert jobs([a], tmp_path / "x.png") == [Job(a, tmp_path / "x.png")]


def test_standard_input_and_output(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    assert jobs([DASH], DASH) == [Job(None, None)]
    assert jobs([a], DASH) == [Job(a, None)]
    assert jobs([DASH], tmp_path / "x.jpg") == [Job(None, tmp_path / "x.jpg")]
    assert jobs([DASH], tmp_path, ext="webp") == [Job(None, tmp_path / "stdin.webp")]
    with pytest.raises(ConfigError, match="takes one image: give a folder"):
        plan_files([a, DASH], DASH)


def test_patterns_for_shells_that_leave_them(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a1.png"), picture(tmp_path / "a2.png")
    literal = picture(tmp_path / "a[12].png")
    assert [j.source for j in jobs([tmp_path / "a?.png"], tmp_path / "out")] == [a, b]
    assert [j.source for j in jobs([literal], tmp_path / "out")] == [literal]
    (failed,) = plan_files([tmp_path / "*.xyz"], tmp_path / "out")
    assert failed.error == f"{tmp_path}/*.xyz: no file matches this pattern"


def test_what_is_missing_does_not_stop_the_rest(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "none.png", a, tmp_path / "empty"], tmp_path / "out"
    missing = settled(*given)
    assert [job.source for job in jobs(*given)] == [a]
    assert missing[0].error == f"{tmp_path / 'none.png'}: no such file"
    assert missing[0].input == str(tmp_path / "none.png") and missing[0].status == "failed"
    assert "empty: no images in it" in (missing[1].error or "")


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b" / "a.png")
    file = picture(tmp_path / "file.png")
    with pytest.raises(ConfigError, match=r"a\.png and .*b/a\.png would both become"):
        plan_files([a, b], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"file\.png is a file: give a folder"):
        plan_files([a, b], file)
    with pytest.raises(ConfigError, match=r"is a complete file name: leave ext and suffix out"):
        plan_files([a], tmp_path / "x.png", ext="jpg")
    with pytest.raises(ConfigError, match=r"suffix '\.\./x': give part of a file name"):
        plan_files([a], tmp_path / "out", suffix="../x")


def test_the_same_picture_named_twice_is_restored_once(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    assert jobs([a, tmp_path / "*.png", tmp_path], tmp_path / "out") == [
        Job(a, tmp_path / "out" / "a.png")
    ]


def test_results_are_not_restored_again(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    picture(tmp_path / "out" / "a.png")
    planned = jobs([tmp_path], tmp_path / "out", overwrite=True)
    assert [job.source for job in planned] == [a]
    b = picture(tmp_path / "beside" / "b.png")
    picture(tmp_path / "beside" / "b_restored.png")
    planned = jobs([b.parent], b.parent, suffix="_restored", overwrite=True)
    assert [job.source for job in planned] == [b]
    assert jobs([b], b.parent, overwrite=True) == [Job(b, b)]  # in place


def test_several_images_need_a_folder(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "in" / "a.png"), picture(tmp_path / "in" / "b.png")
    for inputs in ([a, b], [a.parent], [tmp_path / "in" / "*.png"]):
        with pytest.raises(ConfigError, match=r"out\.jpg is the name of one image: give a folder"):
            plan_files(inputs, tmp_path / "out.jpg")
    for output in ("out.2026", "out"):  # no suffix of images
        assert len(jobs([a, b], tmp_path / output)) == 2
    (tmp_path / "out.jpg").mkdir()
    assert len(jobs([a, b], tmp_path / "out.jpg")) == 2


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path) -> None:
    for inputs, output in (([""], "out"), ([str(tmp_path)], "")):
        with pytest.raises(ConfigError, match="an empty name: give that of a file or folder"):
            plan_files(inputs, output)


def test_a_format_that_is_not_written_is_refused_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    with pytest.raises(PictureError, match=r"no image format is written as '\.foo'"):
        plan_files(tmp_path / "in", tmp_path / "out", ext="foo")


def test_links_to_folders_are_left_out(tmp_path: Path) -> None:
    a = picture(tmp_path / "in" / "a.png")
    for name in ("loop", "loop.png"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    assert [job.source for job in jobs([tmp_path / "in"], tmp_path / "out")] == [a]


def test_names_are_shown_on_one_line() -> None:
    assert shown(Path("a\nb\x1b[31m")) == "a\\nb\\x1b[31m"
    assert shown(Path("日本 'é'.png")) == "日本 'é'.png"
    assert shown(Path("broken\udcff")) == "broken\\udcff"


def test_results_that_are_there_need_a_word(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    picture(out / "a.png")
    picture(out / "c.png")
    with pytest.raises(FileExistsError) as raised:
        plan_files([tmp_path / "in"], out)
    assert raised.value.filename == str(out / "a.png")
    assert raised.value.strerror == "already there (and 1 more)"
    skipping = [tmp_path / "in"], out
    assert [job.target for job in jobs(*skipping, skip_existing=True)] == [out / "b.png"]
    assert [(o.output, o.status) for o in settled(*skipping, skip_existing=True)] == [
        (str(out / f"{name}.png"), "skipped") for name in "ac"
    ]
    replacing = plan_files([tmp_path / "in"], out, overwrite=True)
    assert len(list(replacing)) == 3 and replacing.overwrite
    with pytest.raises(ConfigError, match="choose one"):
        plan_files([tmp_path / "in"], out, skip_existing=True, overwrite=True)


@pytest.mark.parametrize(
    ("error", "unexpected"),
    [
        (KernelUnavailableError("pointwise_conv", "a kernel does not compile"), False),
        (BackendUnavailableError("backend 'cuda' cannot run here"), False),
        (RuntimeError("something else"), True),
    ],
)
def test_a_backend_that_cannot_run_has_a_remedy(
    error: RuntimeError, unexpected: bool, tmp_path: Path
) -> None:
    said = Outcome.of_error(Job(tmp_path / "a.png", tmp_path / "b.png"), error).error or ""
    assert str(error) in said
    assert ("unexpected" in said) == unexpected
