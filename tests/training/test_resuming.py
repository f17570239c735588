"""What a run says when it goes on with other values, and what is found before its first step."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from moceir.data.check import check_pictures
from moceir.data.datasets import Pair
from moceir.data.patches import FilePatches, Read
from moceir.errors import CheckpointError, ConfigError, PictureError
from moceir.training.config import TrainingConfig, plain
from moceir.training.data import RestorationData
from moceir.training.options import parse
from moceir.training.record import changes
from moceir.training.run import main
from tests.evaluation.trees import picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(2):
        picture(folder / f"{i}.png", seed=i)
    return folder


def arguments(run: Path, pictures: Path, *more: str) -> list[str]:
    values = {
        "run": run,
        "model": '{"dim": 8, "num_blocks": [1, 1], "num_dec_blocks": [1], "heads": [1, 1], '
        '"num_refinement_blocks": 0}',
        "data.train": pictures,
        "data.crop": 16,
        "data.batch_size": 2,
        "optimizer.lr": 1e-3,
        "steps": 2,
        "precision": "32-true",
        "accelerator": "cpu",
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))] + [*more]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    main(arguments(run, pictures))
    return run


@pytest.fixture
def run(two_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "run"))


def parts(run: Path) -> list[dict]:
    return json.loads((run / "versions.json").read_text())


def test_other_values_are_said_and_recorded(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    picture(other / "0.png")
    words = ["--optimizer.loss", "l2", "--optimizer.lr", "2e-3", "--data.batch_size", "4"]
    words += ["--data.train", str(other), "--steps", "3", "--max_minutes", "60"]
    main(arguments(run, pictures, *words))
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "other settings" in x)
    assert line.startswith(f"the run in {run} has done 2 steps and continues with other settings: ")
    said = line.partition("settings: ")[2].partition("; ")[0].split(", ")
    assert {x for x in said if "data.train" not in x} == {
        *("optimizer.loss 'l1' -> 'l2'", "optimizer.lr 0.001 -> 0.002", "data.batch_size 2 -> 4"),
        "steps 2 -> 3",
    }
    first, second = parts(run)
    assert (first["from_step"], second["from_step"]) == (0, 2)
    assert (first["pictures"], second["pictures"]) == (2, 1)
    assert "changed" not in first
    assert second["changed"] == {
        "data.train": [str(pictures), str(other)],
        "data.batch_size": [2, 4],
        "optimizer.lr": [0.001, 0.002],
        "optimizer.loss": ["l1", "l2"],
        "steps": [2, 3],
    }
    now = yaml.safe_load((run / "config.yaml").read_text())
    assert (now["optimizer"]["loss"], now["data"]["batch_size"]) == ("l2", 4)
    # Once more from the same checkpoint: what came of the part before is gone, and so is its entry.
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 3
    main(arguments(run, pictures, *words, "--steps", "4"))
    assert [part["from_step"] for part in parts(run)] == [0, 2, 3]
    assert parts(run)[2]["changed"] == {"steps": [3, 4]}


def test_what_left_nothing_is_not_recorded(run: Path, pictures: Path) -> None:
    """Two attempts from one checkpoint: of the first, which ended before its own, nothing stays."""
    last = (run / "last.ckpt").read_bytes()
    main(arguments(run, pictures, "--steps", "3", "--optimizer.loss", "l2"))
    (run / "last.ckpt").write_bytes(last)
    main(arguments(run, pictures, "--steps", "3"))
    _, second = parts(run)
    assert (second["from_step"], second["changed"]) == (2, {"steps": [2, 3]})
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["loss"] == "l1"


def test_the_same_command_says_and_records_nothing_more(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(run, pictures, "--steps", "4", "--max_minutes", "0"))
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "versions.json")}
    capsys.readouterr()
    main(arguments(run, pictures, "--steps", "4", "--max_minutes", "9"))
    assert "other values" not in capsys.readouterr().err
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written.pop("max_minutes") == 9
    kept = yaml.safe_load(before["config.yaml"])
    assert written.items() <= kept.items()
    assert (run / "versions.json").read_bytes() == before["versions.json"]


def test_a_finished_run_says_so(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "config.yaml").read_bytes()
    main(arguments(run, pictures, "--optimizer.lr", "1"))
    assert "has done 2 steps of 2: nothing to train" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before  # nothing ran with these values


def test_weights_that_a_run_does_not_start_from_are_said(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(run / "model.safetensors")
    main(arguments(run, pictures, "--steps", "3", "--weights", weights))
    said = capsys.readouterr().err
    assert f"from its checkpoint, not from the weights {weights}" in said and "--run" in said


def test_older_checkpoints_lack_values() -> None:
    saved = plain(TrainingConfig())
    del saved["routing_warmup"]
    saved["gone"] = 3
    config = TrainingConfig(preset="moce_ir", run=Path("other"))
    assert changes(saved, config) == {"gone": (3, None)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, r"not a checkpoint of moceir train; choose another --run"),
        ([1], "not a checkpoint of moceir train"),
        (
            {"global_step": 1, "training_config": {"preset": "compakt", "model": {}}},
            "its configuration cannot be used .unknown preset 'compakt'.*choose another --run",
        ),
        ({"global_step": 1, "training_config": {}}, "its configuration cannot be used"),
    ],
)
def test_a_foreign_checkpoint_is_named(
    tmp_path: Path, pictures: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=rf"last\.ckpt: {message}"):
        main(arguments(tmp_path, pictures))


def broken(folder: Path) -> Path:
    """A folder of one good picture and three that look good until they are decoded."""
    picture(folder / "good.png")
    whole = picture(folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    (folder / "damaged.png").write_bytes(damaged)
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("cache_mb", ["0", "100"])
@pytest.mark.parametrize("mixture", [False, True])
def test_broken_pictures_are_found_before_the_first_step(
    tmp_path: Path, pictures: Path, cache_mb: str, mixture: bool
) -> None:
    folder = broken(tmp_path / "in")
    (folder / "empty.png").unlink()
    words = ["--data.train", str(folder), "--data.cache_mb", cache_mb]
    if mixture:
        words += ["--data.mixture", f'[{{"clean": "{folder}", "degradation": "noise"}}]']
    with pytest.raises(PictureError, match=r"(cut|damaged)\.png") as error:
        main(arguments(tmp_path / "run", pictures, *words))
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "last.ckpt").exists()
    if cache_mb == "0" or mixture:
        assert "2 of 3 training images" in str(error.value)
        assert "cut.png" in str(error.value) and "damaged.png" in str(error.value)
        assert not (tmp_path / "run").exists()


def test_broken_validation_pictures_are_found_before_the_first_step(
    tmp_path: Path, pictures: Path
) -> None:
    folder = broken(tmp_path / "in")
    words = ["--data.validation", str(folder), "--data.validation_pictures", "2"]
    with pytest.raises(PictureError, match=r"cut\.png"):
        main(arguments(tmp_path / "run", pictures, *words))
    assert not (tmp_path / "run").exists()


def test_all_broken_pictures_are_counted(tmp_path: Path) -> None:
    folder = broken(tmp_path / "in")
    paths = sorted(folder.iterdir())
    small = picture(tmp_path / "small.png", 20, 30)
    pairs = [*map(Pair, paths), Pair(folder / "good.png", small), *map(Pair, paths), Pair(small)]
    with pytest.raises(PictureError) as error:
        check_pictures(pairs, 24)
    text = str(error.value)
    assert text.startswith("5 of 6 training images cannot be used: fix them or remove them")
    for part in ("cut.png", "damaged.png", "empty.png", "the same size", "20 x 30"):
        assert part in text
    check_pictures([Pair(folder / "good.png"), Pair(small)])


def data_of(pictures: Path, *more: str) -> RestorationData:
    words = arguments(Path("run"), pictures, "--data.cache_mb", "0", "--data.workers", "1", *more)
    return RestorationData(parse(words))


def test_a_picture_that_breaks_later_is_one_line(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: FilePatches, numbers: Sequence[int]) -> Read:
        raise PictureError(f"picture of patch {numbers[0]}: broken")

    monkeypatch.setattr(FilePatches, "read", breaks)
    with pytest.raises(PictureError) as error:
        next(data_of(pictures).batches())
    assert str(error.value) == "picture of patch 0: broken"


def test_a_worker_that_dies_is_one_line(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: FilePatches, numbers: Sequence[int]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(FilePatches, "read", dies)
    with pytest.raises(ConfigError, match=r"has ended \(DataLoader.*data\.workers \(0: none\)"):
        next(data_of(pictures).batches())


def test_workers_hand_batches_over_without_shared_memory(pictures: Path) -> None:
    """A container has 64 MB of it, and a run whose worker finds none left waits for ever."""
    expected = next(data_of(pictures, "--data.workers", "0").batches())
    read = next(data_of(pictures).batches())
    assert isinstance(read.clean, np.ndarray)
    assert np.array_equal(read.clean, expected.clean)


def test_no_room_for_semaphores_is_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    data = data_of(pictures)
    monkeypatch.setattr("moceir.training.data.DataLoader.__iter__", full)
    with pytest.raises(ConfigError, match=r"/dev/shm has no room.*data\.workers to 0"):
        next(data.batches())
