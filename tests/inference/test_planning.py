"""Plans of very many pictures: made as they are carried out, shared out, noted and resumed."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moceir.errors import ConfigError
from moceir.inference import planning
from moceir.inference.batch import restore_files
from moceir.inference.jobs import Job, Outcome, Plan
from moceir.inference.planning import plan_files
from moceir.inference.restorer import Restorer
from moceir.inference.sources import read_list
from moceir.pictures import folders
from moceir.pictures.folders import walk_names
from tests.small_network import picture


def names(items: Any) -> list[str]:
    return [Path(str(item.source)).name for item in items if isinstance(item, Job)]


def errors(items: Any) -> list[str]:
    return [item.error for item in items if isinstance(item, Outcome) and item.error]


@pytest.fixture
def none_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is checked when it is its turn."""
    monkeypatch.setattr(planning, "AHEAD", 0)


# --- In little memory --------------------------------------------------------------------------


def test_a_plan_is_made_while_it_is_carried_out(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield f"{taken}.png"

    items = iter(plan_files(tmp_path, tmp_path / "out", files=endless()))
    assert taken == planning.AHEAD + 1
    for number in range(1, 3 * planning.AHEAD):
        job = next(items)
        assert isinstance(job, Job) and job.source == tmp_path / f"{number}.png"
    assert taken == 3 * planning.AHEAD - 1


def test_the_first_picture_is_restored_before_the_last_is_known(
    tmp_path: Path, restorer: Restorer
) -> None:
    picture(tmp_path / "in" / "1.png")
    picture(tmp_path / "in" / "2.png")

    def report(outcome: Outcome) -> None:
        if outcome.status == "restored":
            raise KeyboardInterrupt

    listed = (f"{number}.png" for number in itertools.count(1))
    with pytest.raises(KeyboardInterrupt):
        restore_files(
            plan_files(tmp_path / "in", tmp_path / "out", files=listed), restorer, report=report
        )
    assert (tmp_path / "out" / "1.png").exists()
    assert int(next(listed).partition(".")[0]) < planning.AHEAD + 100


@pytest.mark.parametrize("settings", [{}, {"ext": "webp"}, {"shard": "1/2"}])
def test_memory_does_not_grow_with_the_number(tmp_path: Path, settings: dict[str, str]) -> None:
    number = 30_000
    listed = (f"{i % 7}/photo {i}.png" for i in range(number))
    tracemalloc.start()
    for _ in plan_files(tmp_path, tmp_path / "out", files=listed, **settings):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A job and its paths take 800 bytes; half of the jobs are in the shard. Python 3.12 never frees
    # the names in paths, some 100 bytes each (CPython's issue 113993).
    assert peak < 300 * number


def test_a_long_plan_can_be_gone_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AHEAD", 2)
    short = plan_files(tmp_path, tmp_path / "out", files=["a.png", "b.png"])
    assert short.total == 2 and len(list(short)) == len(list(short)) == 2
    long = plan_files(tmp_path, tmp_path / "out", files=["a.png", "b.png", "c.png"])
    assert long.total is None and names(long) == ["a.png", "b.png", "c.png"] and long.total == 3
    with pytest.raises(ConfigError, match="can be gone through once"):
        list(long)


def test_a_large_folder_is_read_lot_by_lot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SORTED", 3)
    order = ["8", "1", "5", "9", "2", "7", "0"]
    for name in order:
        (tmp_path / f"{name}.png").touch()
    scandir = os.scandir

    @contextmanager
    def shuffled(folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """As file systems list names: in any order."""
        with scandir(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: order.index(entry.name[0])))

    monkeypatch.setattr(os, "scandir", shuffled)
    found = list(walk_names(str(tmp_path), (".png",), on_error=pytest.fail))
    assert found == [f"{name}.png" for name in "1582790"]


def test_files_of_a_folder_come_before_those_of_its_folders(tmp_path: Path) -> None:
    names = ["z.png", "a/2.png", "a/b/1.png", "c/0.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = walk_names(str(tmp_path), (".png",), on_error=pytest.fail)
    assert [Path(name).as_posix() for name in found] == names


# --- Conflicts that are found later --------------------------------------------------------------


def test_later_conflicts_fail_alone(tmp_path: Path, none_ahead: None) -> None:
    for name in ("1.png", "2.jpg", "2.png", "3.png", "4.png"):
        picture(tmp_path / "in" / name)
    picture(tmp_path / "out" / "3.webp")
    plan = list(plan_files(tmp_path / "in", tmp_path / "out", ext="webp"))
    assert names(plan) == ["1.png", "2.jpg", "4.png"]
    collision, there = errors(plan)
    assert collision == (
        f"{tmp_path}/in/2.jpg and {tmp_path}/in/2.png would both become {tmp_path}/out/2.webp: "
        "give each an output folder of its own"
    )
    assert there == f"{tmp_path}/out/3.webp: already there: skip or replace it"


def test_of_the_first_thousand_conflicts_are_raised(tmp_path: Path) -> None:
    listed = [f"{i}.png" for i in range(planning.AHEAD)] + ["0.jpg"]
    with pytest.raises(ConfigError, match=r"0\.png and .*0\.jpg would both become"):
        plan_files(tmp_path, tmp_path / "out", files=listed, ext="png")


def test_no_original_is_replaced_by_another_picture(tmp_path: Path, none_ahead: None) -> None:
    """a.png is a picture of its own, and not to be overwritten by what becomes of a.jpg."""
    for name in ("0.png", "a.jpg", "a.png", "b.jpg"):
        picture(tmp_path / name)
    plan = list(plan_files(tmp_path, tmp_path, ext="png", overwrite=True))
    assert names(plan) == ["0.png", "b.jpg"]
    assert "a.jpg would both become" in " ".join(errors(plan))


def test_results_of_this_run_are_not_taken_for_originals(
    tmp_path: Path, none_ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is read while results appear in it."""
    monkeypatch.setattr(folders, "SORTED", 1)
    for name in "abcdef":
        picture(tmp_path / f"{name}.jpg")
    for settings in ({"suffix": "_x"}, {"ext": "png"}):
        done = []
        for job in plan_files(tmp_path, tmp_path, overwrite=True, **settings):
            assert isinstance(job, Job)
            done.append(str(job.source))
            picture(Path(str(job.target)))
        assert sorted(done) == [str(tmp_path / f"{name}.jpg") for name in "abcdef"]
        for path in tmp_path.iterdir():
            if path.suffix == ".png" or path.stem.endswith("_x"):
                path.unlink()


# --- Lists ---------------------------------------------------------------------------------------


def test_names_in_a_list_are_in_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    listed = ["a.png", "sub/./b.png", str(tmp_path / "in" / "c d.png"), Path("e.png"), "a.png"]
    plan = list(plan_files(tmp_path / "in", out, files=listed))
    assert plan == [
        Job(tmp_path / "in" / name, out / name)
        for name in ("a.png", "sub/b.png", "c d.png", "e.png")
    ]
    outside = ["../x.png", str(tmp_path / "y.png"), "..z.png", "s3://bucket/w.png"]
    plan = list(plan_files(tmp_path / "in", out, files=outside))
    assert names(plan) == ["..z.png"]
    assert [error.partition(": ")[0] for error in errors(plan)] == [
        name for name in outside if name != "..z.png"
    ]
    assert f"not in {tmp_path}/in: give the folder" in errors(plan)[0]
    with pytest.raises(ConfigError, match="the one folder that they are in"):
        plan_files([tmp_path, tmp_path / "in"], out, files=[])


def test_lists_as_programs_write_them() -> None:
    def read(text: bytes, **settings: bool) -> list[str]:
        return list(read_list(io.BytesIO(text), **settings))

    assert read(b"a.png\nsub/b c.png\r\n\nd.png") == ["a.png", "sub/b c.png", "d.png"]
    assert read(b"a\nb.png\0c.png\0", null=True) == ["a\nb.png", "c.png"]
    assert os.fsencode(read(b"\xff.png\n")[0]) == b"\xff.png"
    long = b"".join(b"%d.png\n" % i for i in range(50_000))
    assert read(long) == [f"{i}.png" for i in range(50_000)]


# --- Shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_are_disjoint_and_complete_whatever_the_order(tmp_path: Path, count: int) -> None:
    listed = [f"{i % 5}/{i}.jpg" for i in range(2000)]
    shares = [
        list(plan_files(tmp_path, "out", files=listed, shard=f"{number}/{count}"))
        for number in range(1, count + 1)
    ]
    every = [str(job.source) for share in shares for job in share if isinstance(job, Job)]
    assert sorted(every) == sorted(str(tmp_path / name) for name in listed)
    assert min(map(len, shares)) > 0.8 * len(listed) / count
    random.Random(0).shuffle(listed)
    for number, share in enumerate(shares, start=1):
        again = plan_files(tmp_path, "out", files=listed, shard=f"{number}/{count}")
        assert set(map(str, again)) == set(map(str, share))


def test_pictures_of_one_result_are_in_one_shard(tmp_path: Path) -> None:
    """Else neither shard would see that they conflict."""
    for i in range(20):
        (tmp_path / f"{i}.jpg").touch()
        (tmp_path / f"{i}.bmp").touch()
    for number in range(1, 5):
        with pytest.raises(ConfigError, match="would both become"):
            plan_files(tmp_path, tmp_path / "out", ext="png", shard=f"{number}/4")


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1/-2"])
def test_what_is_no_shard_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="give one such as 1/4") as raised:
        plan_files(tmp_path, tmp_path / "out", shard=text)
    assert raised.value.argument == "shard"


# --- Manifests -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        picture(tmp_path / "in" / f"{i}.png", 24 + i)
    (tmp_path / "in" / "2.png").write_text("text")
    return tmp_path


def run(folder: Path, restorer: Restorer, **settings: Any) -> dict[str, int]:
    plan = plan_files(folder / "in", folder / "out", manifest=folder / "run.jsonl", **settings)
    return restore_files(plan, restorer)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]


def test_a_manifest_has_a_line_for_each_picture(folder: Path, restorer: Restorer) -> None:
    assert run(folder, restorer) == {"restored": 3, "failed": 1}
    by_input = {line["input"]: line for line in lines(folder)}
    assert len(by_input) == len(lines(folder)) == 4
    first = by_input[str(folder / "in" / "0.png")]
    assert first.pop("seconds") >= 0
    assert first == {
        "input": str(folder / "in" / "0.png"),
        "output": str(folder / "out" / "0.png"),
        "outcome": "restored",
        "message": None,
        "size": [24, 16],
    }
    failed = by_input[str(folder / "in" / "2.png")]
    assert (failed["outcome"], failed["size"], failed["seconds"]) == ("failed", None, None)
    assert "2.png: not an image" in failed["message"]


def test_what_a_manifest_has_as_done_is_not_looked_at(folder: Path, restorer: Restorer) -> None:
    run(folder, restorer)
    (folder / "out" / "0.png").unlink()  # moved elsewhere, say
    (folder / "in" / "1.png").unlink()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "in" / "2.png")
    assert run(folder, restorer) == {"restored": 1}
    assert [Path(line["output"]).name for line in lines(folder)[4:]] == ["2.png"]
    assert run(folder, restorer) == {}
    assert plan_files(folder / "in", folder / "out", manifest=folder / "run.jsonl").total == 0
    # With overwrite a run is resumed, not begun again.
    assert run(folder, restorer, overwrite=True) == {}
    # Another folder of results is another run.
    assert len(list(plan_files(folder / "in", "other", manifest=folder / "run.jsonl"))) == 3


def test_a_killed_run_is_resumed(folder: Path, restorer: Restorer) -> None:
    """It left a result without a line, and half a line."""
    (folder / "in" / "2.png").unlink()
    run(folder, restorer)
    text = (folder / "run.jsonl").read_bytes()
    last = len(text.splitlines(keepends=True)[-1])
    (folder / "run.jsonl").write_bytes(text[: -last // 2])
    assert run(folder, restorer) == {"skipped": 1}
    assert [line["outcome"] for line in lines(folder)] == ["restored", "restored", "skipped"]
    assert len({line["output"] for line in lines(folder)}) == 3


def test_a_new_manifest_does_not_hide_what_is_there(folder: Path, restorer: Restorer) -> None:
    picture(folder / "out" / "0.png")
    with pytest.raises(FileExistsError, match="already there"):
        run(folder, restorer)
    assert not (folder / "run.jsonl").exists()


@pytest.mark.parametrize("line", ["text", "[1]", '{"input": "a.png"}', '{"input": 1}', "\x00"])
def test_another_file_is_no_manifest(folder: Path, restorer: Restorer, line: str) -> None:
    (folder / "run.jsonl").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"run\.jsonl: line 1 is not of a manifest"):
        run(folder, restorer)
    assert (folder / "run.jsonl").read_text() == f"{line}\n"


def test_a_file_of_one_line_without_an_end_is_not_emptied(folder: Path, restorer: Restorer) -> None:
    (folder / "run.jsonl").write_text("my only copy")
    with pytest.raises(ConfigError, match=r"run\.jsonl: line 1 is not of a manifest"):
        run(folder, restorer)
    assert (folder / "run.jsonl").read_text() == "my only copy"


def test_results_above_the_inputs_can_be_made_again(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    for given in ("photos", "photos/a.png"):
        for _ in range(2):
            plan = plan_files(given, ".", overwrite=True)
            assert restore_files(plan, restorer)["restored"] == 1
        counts = restore_files(plan_files(given, ".", skip_existing=True), restorer)
        assert counts["skipped"] == 1


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_a_given_picture_is_not_replaced_by_the_result_of_another(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    for name in order:
        picture(tmp_path / name / "a.png")
    with pytest.raises(ConfigError, match="would both become"):
        [*plan_files([tmp_path / name for name in order], tmp_path / "one", overwrite=True)]


def test_a_file_in_place_of_a_folder_is_a_failure_not_a_result(
    folder: Path, restorer: Restorer
) -> None:
    picture(folder / "in" / "sub" / "a.png")
    (folder / "out").mkdir()
    (folder / "out" / "sub").write_text("a file")
    counts = restore_files(plan_files(folder / "in", folder / "out", skip_existing=True), restorer)
    # The other is no picture.
    assert counts["failed"] == 2 and "skipped" not in counts


def test_two_runs_do_not_write_one_manifest(folder: Path, restorer: Restorer) -> None:
    def plan() -> Plan:
        return plan_files(folder / "in", folder / "out", manifest=folder / "run.jsonl")

    first, second = plan(), plan()

    def meanwhile(outcome: Outcome) -> None:
        with pytest.raises(BlockingIOError, match="another run is writing it"):
            restore_files(second, restorer)

    assert restore_files(first, restorer, report=meanwhile)["restored"] == 3
    with pytest.raises(OSError, match="changed since the plan was made: plan again"):
        restore_files(second, restorer)  # planned before the first had done anything
    assert len(lines(folder)) == 4
    assert "restored" not in restore_files(plan(), restorer)  # and nobody holds the manifest


def test_an_interruption_is_noted_and_resumed(folder: Path, restorer: Restorer) -> None:
    seen = []

    def interrupted(outcome: Outcome) -> None:
        seen.append(outcome)
        if len(seen) == 1:
            raise KeyboardInterrupt

    plan = plan_files(folder / "in", folder / "out", manifest=folder / "run.jsonl")
    with pytest.raises(KeyboardInterrupt):
        restore_files(plan, restorer, report=interrupted)
    done = [line["output"] for line in lines(folder) if line["outcome"] == "restored"]
    assert sorted(map(str, (folder / "out").iterdir())) == sorted(done)
    counts = run(folder, restorer)
    assert counts.get("restored", 0) == 3 - len(done)
