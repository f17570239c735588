"""Batches of files without the command: what overlaps, what goes together, what fails alone."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import moceir
from moceir.errors import ConfigError
from moceir.inference import batch
from moceir.inference.batch import restore_files
from moceir.inference.jobs import Job, Outcome, Plan
from moceir.inference.planning import plan_files
from moceir.inference.restorer import Restorer
from moceir.pictures import codec
from tests.small_network import picture


def outcomes_of(plan: Plan, restorer: Restorer, **settings: Any) -> list[Outcome]:
    """What ``restore_files`` reports, in order of the outputs."""
    outcomes: list[Outcome] = []
    counts = restore_files(plan, restorer, report=outcomes.append, **settings)
    assert counts == Counter(outcome.status for outcome in outcomes)
    return sorted(outcomes, key=lambda outcome: outcome.output)


def test_a_folder_from_python(tmp_path: Path, restorer: Restorer) -> None:
    """What is restored is what ``Restorer`` makes of it; what fails says why, and where."""
    source = picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("text")
    plan = moceir.plan_files([tmp_path / "in", tmp_path / "none"], tmp_path / "out")
    outcomes = outcomes_of(plan, restorer, strength=0.5)
    assert [outcome.status for outcome in outcomes] == ["failed", "restored", "failed"]
    assert outcomes[0].error == f"{tmp_path / 'none'}: no such file"
    assert outcomes[2].error and "b.png: not an image" in outcomes[2].error
    assert outcomes[2].traceback and "Traceback" in outcomes[2].traceback
    expected, run = restorer.restore_pixels(np.asarray(Image.open(source)), strength=0.5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)
    assert outcomes[1].experts == [list(experts) for experts in run.tile_experts]
    # What has been done is not done again, unless it is to be replaced.
    again = plan_files(tmp_path / "in", tmp_path / "out", skip_existing=True)
    assert restore_files(again, restorer) == {"skipped": 1, "failed": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 100}, "tile 100 is too small"),
        ({"strength": 1.5}, "strength 1.5"),
        ({"quality": 0}, "quality 0: give 1 to 100"),
        ({"jobs": 0}, "jobs 0"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(
    restorer: Restorer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        restore_files(Plan([Job(Path("none.png"), Path("out.png"))]), restorer, **arguments)
    assert raised.value.argument == next(iter(arguments))


def test_of_a_group_the_picture_that_cannot_be_restored_fails_alone(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three pictures that go together has a result that is not finite."""
    for name, value in (("a", 40), ("b", 250), ("c", 90)):
        Image.new("RGB", (24, 16), (value, value, value)).save(tmp_path / f"{name}.png")
    network, sizes = restorer._network, []

    def broken(images: torch.Tensor, precision: str) -> Any:
        sizes.append(len(images))
        restored, experts = network(images, precision)
        bright = images.mean(dim=(1, 2, 3), keepdim=True) > 0.9
        return restored.masked_fill(bright, float("nan")), experts

    monkeypatch.setattr(restorer, "_network", broken)
    outcomes = outcomes_of(plan_files(tmp_path, tmp_path / "out"), restorer)
    assert sizes[0] == 3
    assert [outcome.status for outcome in outcomes] == ["restored", "failed", "restored"]
    assert "b.png" in (outcomes[1].error or "") and "NaN or infinite" in (outcomes[1].error or "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    for name in "ac":
        alone, _ = restorer.restore_pixels(np.asarray(Image.open(tmp_path / f"{name}.png")))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), alone)


def test_an_interruption_leaves_whole_pictures_and_reports_them(
    tmp_path: Path, restorer: Restorer
) -> None:
    for i in range(6):
        picture(tmp_path / f"{i}.png", 24 + i)
    seen: list[Outcome] = []

    def interrupted(outcome: Outcome) -> None:
        seen.append(outcome)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_files(plan_files(tmp_path, tmp_path / "out"), restorer, report=interrupted)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 1 <= len(written) < 6
    assert written == sorted(Path(outcome.output).name for outcome in seen)


def test_pictures_are_read_and_written_while_others_are_restored(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the network has the second picture, the third has been read and the first is being
    written: each waits for the others, and none would go on if they took turns."""
    jobs = [Job(picture(tmp_path / f"{i}.png", 24 + i), tmp_path / f"out{i}.png") for i in range(3)]
    third_read, second_restored = threading.Event(), threading.Event()
    decode, encode, restore_batch = codec.decode, codec.encode, Restorer.restore_batch
    count = []

    def watched_decode(data: bytes, name: str, keep: bool) -> codec.Picture:
        if name.endswith("2.png"):
            third_read.set()
        return decode(data, name, keep)

    def watched_encode(*args: object) -> list[str]:
        assert second_restored.wait(60)
        return encode(*args)  # type: ignore[arg-type]

    def watched_restore(*args: object, **settings: object) -> object:
        count.append(1)
        if len(count) == 2:
            assert third_read.wait(60)
            second_restored.set()
        return restore_batch(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "decode", watched_decode)
    monkeypatch.setattr(codec, "encode", watched_encode)
    monkeypatch.setattr(Restorer, "restore_batch", watched_restore)
    assert restore_files(Plan(jobs), restorer, jobs=1) == {"restored": 3}


def test_the_number_of_waiting_pictures_is_bounded(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = picture(tmp_path / "a.png")
    jobs = [Job(source, tmp_path / f"out{i}.png") for i in range(30)]
    decoded, written, most = [], [], [0]
    decode, encode = codec.decode, codec.encode

    def counted_decode(data: bytes, name: str, keep: bool) -> codec.Picture:
        decoded.append(1)
        most[0] = max(most[0], len(decoded) - len(written))
        return decode(data, name, keep)

    def counted_encode(*args: object) -> list[str]:
        notes = encode(*args)  # type: ignore[arg-type]
        written.append(1)
        return notes

    monkeypatch.setattr(codec, "decode", counted_decode)
    monkeypatch.setattr(codec, "encode", counted_encode)
    assert restore_files(Plan(jobs), restorer, jobs=2) == {"restored": 30}
    # Two readers and one waiting, a group in the network, two writers and one waiting.
    assert most[0] <= 2 * (2 + 1) + batch.TOGETHER


def test_small_pictures_of_one_shape_are_restored_together(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(5)
    shapes = [(16, 24, 3)] * 4 + [(24, 16, 3)] * 2 + [(16, 24, 3)] * 10 + [(400, 300, 3)] * 2
    jobs = []
    for i, shape in enumerate(shapes):
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        jobs.append(Job(tmp_path / f"{i}.png", tmp_path / f"out{i}.png"))
    jobs[2].source.write_bytes(b"no picture")
    restore_batch, sizes = Restorer.restore_batch, []

    def counted(self: Restorer, pixels: np.ndarray, **settings: object) -> object:
        sizes.append(len(pixels))
        return restore_batch(self, pixels, **settings)

    monkeypatch.setattr(Restorer, "restore_batch", counted)
    outcomes = outcomes_of(Plan(jobs), restorer)
    assert sizes == [2, 1, 2, 8, 2, 1, 1]
    by_name = {Path(outcome.input).stem: outcome for outcome in outcomes}
    assert by_name["2"].status == "failed" and len(outcomes) == len(jobs)
    for i in [i for i in range(len(jobs)) if i != 2]:
        alone, run = restorer.restore_pixels(np.asarray(Image.open(jobs[i].source)))
        restored = np.asarray(Image.open(jobs[i].target))
        assert np.abs(restored.astype(int) - alone).max() <= 1
        assert by_name[str(i)].experts == [list(experts) for experts in run.tile_experts]
