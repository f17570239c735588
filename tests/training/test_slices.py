"""Training in slices: what is kept, how large it is, and that it goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from moceir.config import preset
from moceir.errors import CheckpointError, ConfigError, PictureError
from moceir.model import MoCEIR, load_weights
from moceir.training import packed
from moceir.training.checkpoint import load_checkpoint
from moceir.training.options import parse
from moceir.training.packed import LIMIT, PART, pack, read_set, unpack, write_set
from moceir.training.slices import main, pack_pictures, run_slice, state_weights
from tests.evaluation.trees import published
from tests.training.test_mixture import arguments

ROOT = Path(__file__).parents[2]


def checkpoint(model: torch.nn.Module) -> dict[str, Any]:
    """Of a network under AdamW."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def second(p: torch.Tensor) -> torch.Tensor:
        """Rows and columns that differ by orders of magnitude, and chance."""
        rows, columns = len(p), p[0].numel()
        scale = (2 * noise(rows, 1) + 2 * noise(1, columns)).exp()
        return (1e-6 * scale * (0.3 * noise(rows, columns)).exp()).reshape(p.shape)

    averaged = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    trained = {key: tensor + 3e-3 * noise(*tensor.shape) for key, tensor in averaged.items()}
    state = {
        i: {"step": torch.tensor(7.0), "exp_avg": 1e-3 * noise(*p.shape), "exp_avg_sq": second(p)}
        for i, p in enumerate(model.parameters())
    }
    return {
        "state_dict": averaged,
        "current_model_state": trained,
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 1e-3}]}],
        "loss_means": {"noise": [0.25, 0.5], "rain": [0.0, 0.0]},
        "global_step": 7,
        "usage": {"counts": torch.ones(9, 10, 4, dtype=torch.int64), "macs": 3},
        "training_config": {"preset": "moce_ir_s", "model": {}},
    }


def test_the_state_of_moce_ir_s_is_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = checkpoint(MoCEIR(preset("moce_ir_s")))
    files = write_set(tmp_path, pack(full), 7)
    sizes = [path.stat().st_size for path in files]
    assert sum(sizes) <= LIMIT and max(sizes) <= PART
    again = read_set(tmp_path)
    assert again is not None and again["global_step"] == 7
    assert again["training_config"] == full["training_config"]
    assert torch.equal(again["usage"]["counts"], full["usage"]["counts"])
    assert again["loss_means"] == full["loss_means"]
    for key, tensor in full["state_dict"].items():
        torch.testing.assert_close(again["state_dict"][key], tensor, rtol=2**-11, atol=1e-7)
        trained = full["current_model_state"][key]
        # Half of a step of the scale; the largest of 256 is about three deviations.
        difference = (again["current_model_state"][key] - trained).abs().max()
        assert difference <= 3e-3 * 5.5 / 254
    for i, moments in again["optimizer_states"][0]["state"].items():
        before = full["optimizer_states"][0]["state"][i]
        assert moments["step"] == 7 and not moments["exp_avg"].any()
        ratio = (moments["exp_avg_sq"] / before["exp_avg_sq"]).log().abs()
        # The chance of a value, of its row's mean and of its column's mean.
        deviation = 0.3 * 3**0.5
        assert ratio.max() < 6 * deviation and ratio.mean() < deviation


def test_zeros_and_vectors_stay_what_they_are() -> None:
    for values in (torch.zeros(3), torch.tensor([1e-20, 0.0, 1.0]), torch.zeros(4, 5)):
        moments = {0: {"step": torch.tensor(1.0), "exp_avg": values, "exp_avg_sq": values}}
        packed_state = pack(
            {
                "state_dict": {"w": values},
                "current_model_state": {"w": values},
                "optimizer_states": [{"state": moments}],
                "loss_means": {},
                "global_step": 1,
                "usage": {"counts": torch.zeros(1), "macs": 0},
                "training_config": {},
            }
        )
        again = unpack(packed_state)
        assert torch.equal(again["optimizer_states"][0]["state"][0]["exp_avg_sq"], values)
        assert torch.equal(again["state_dict"]["w"] == 0, values.half() == 0)


def test_sets_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slice leaves that was killed while it wrote, or a copy that was cut short."""
    monkeypatch.setattr(packed, "PART", 20_000)
    torch.manual_seed(0)
    state = checkpoint(torch.nn.Sequential(torch.nn.Linear(100, 200)))
    first = write_set(tmp_path / "a", pack(state), 7)
    assert len(first) > 2
    second = write_set(tmp_path / "b", pack({**state, "global_step": 8}), 8)
    assert not {p.name for p in first} & {p.name for p in second}
    for path in second[:-1]:
        shutil.copy(path, tmp_path / "a")
    found = read_set(tmp_path / "a")
    assert found is not None and found["global_step"] == 7
    first[1].unlink()
    with pytest.raises(CheckpointError, match="no complete state among state-00000007-1of"):
        read_set(tmp_path / "a")
    shutil.copy(second[-1], tmp_path / "a")
    found = read_set(tmp_path / "a")
    assert found is not None and found["global_step"] == 8
    (tmp_path / "a" / ".state-00000009-1of.abc.part").touch()  # of a slice that was killed
    write_set(tmp_path / "a", pack({**state, "global_step": 9}), 9)
    assert {p.name[:14] for p in (tmp_path / "a").iterdir()} == {"state-00000009"}
    damaged = second[0].read_bytes()[:-1] + b"x"
    second[0].write_bytes(damaged)
    with pytest.raises(CheckpointError, match="no complete state"):
        read_set(tmp_path / "b")
    with pytest.raises(CheckpointError, match="bytes and may have 10"):
        write_set(tmp_path / "a", pack(state), 10, limit=10)
    assert read_set(tmp_path / "a") is not None
    assert read_set(tmp_path / "nothing") is None


def test_slices_train_to_the_end(tmp_path: Path) -> None:
    """Each on a machine of its own: the run folder is new every time."""
    root, state = published(tmp_path / "sets"), tmp_path / "state"
    words = ["--max_minutes", "0", "--steps", "3"]
    for number, name in enumerate(("last.ckpt", "last.ckpt", "model.safetensors"), start=1):
        config = parse(arguments(tmp_path / f"run{number}", root, *words))
        assert run_slice(state, config) == tmp_path / f"run{number}" / name
        assert load_checkpoint(config.run / "last.ckpt")["global_step"] == number
        assert (config.run / "config.yaml").exists()
        kept = read_set(state)
        assert kept is not None and kept["global_step"] == number
    assert state_weights(state, tmp_path / "weights.safetensors") == 3
    ours, whole = (
        load_weights(path).state_dict()
        for path in (tmp_path / "weights.safetensors", tmp_path / "run3" / "model.safetensors")
    )
    for key, tensor in whole.items():
        torch.testing.assert_close(ours[key], tensor, rtol=2**-11, atol=1e-7)
    with pytest.raises(ConfigError, match="max_minutes"):
        run_slice(state, parse(arguments(tmp_path / "run5", root)))
    with pytest.raises(ConfigError, match="one process"):
        run_slice(state, parse(arguments(tmp_path / "run5", root, *words, "--devices", "2")))


def test_what_cannot_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = published(tmp_path / "sets")
    words = arguments(tmp_path / "run", root, "--max_minutes", "0", "--steps", "1")
    monkeypatch.setenv("MOCE_KERNELS_BACKEND", "bogus")
    result = CliRunner().invoke(main, ["train", str(tmp_path / "state"), *words])
    assert result.exit_code == 1 and "no backend 'bogus'" in result.output
    assert "Traceback" not in result.output


def test_a_slice_continues_no_other_run(tmp_path: Path) -> None:
    """Nor is a state lost to one, or a run to a state."""
    root, state = published(tmp_path / "sets"), tmp_path / "state"
    words = ["--max_minutes", "0", "--steps", "3"]
    run_slice(state, parse(arguments(tmp_path / "run", root, *words)))
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    other = arguments(tmp_path / "other", root, *words, "--seed", "1")
    run_slice(tmp_path / "another state", parse(other))
    last = (tmp_path / "other" / "last.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"other settings than .*name another run"):
        run_slice(state, parse(other))
    larger = arguments(tmp_path / "new", root, *words, "--model.num_refinement_blocks", "1")
    with pytest.raises(CheckpointError, match="belongs to another network: train with its preset"):
        run_slice(state, parse(larger))
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before
    assert (tmp_path / "other" / "last.ckpt").read_bytes() == last
    assert not (tmp_path / "new").exists()


def test_the_state_is_kept_during_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moceir.training.slices.KEEP_MINUTES", 0)
    steps = []

    def write(folder: Path, content: bytes, step: int) -> None:
        steps.append(step)
        write_set(folder, content, step)

    monkeypatch.setattr("moceir.training.slices.write_set", write)
    root = published(tmp_path / "sets")
    words = ["--max_minutes", "9", "--steps", "3"]
    run_slice(tmp_path / "state", parse(arguments(tmp_path / "run", root, *words)))
    assert steps == [1, 2, 3]


def test_pictures_are_made_to_fit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "large").mkdir()
    for i in range(5):
        coarse = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
        picture.save(tmp_path / "large" / f"{i}.png")
    made = pack_pictures(tmp_path / "large", tmp_path / "small", megabytes=0.05)
    files = sorted((tmp_path / "small").iterdir())
    assert len(files) == made.pictures == 5
    assert 0.95 * 50_000 < sum(path.stat().st_size for path in files) == made.bytes <= 50_000
    with Image.open(files[0]) as small:
        assert small.size == (round(400 * made.scale), round(300 * made.scale))
        assert min(small.size) == made.smallest
    assert 30 < made.psnr < 60
    whole = pack_pictures(tmp_path / "large", tmp_path / "whole", megabytes=10)
    assert whole.scale == 1
    with pytest.raises(ConfigError, match="not empty"):
        pack_pictures(tmp_path / "large", tmp_path / "small")
    with pytest.raises(PictureError, match="do not fit"):
        pack_pictures(tmp_path / "large", tmp_path / "none", megabytes=0.0001)


def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for words, message in (
        (["weights", str(tmp_path), str(tmp_path / "w")], "no training state in it"),
        (["train", str(tmp_path), "--stepps", "3"], "did you mean 'steps'"),
        (["pictures", str(tmp_path / "none"), str(tmp_path / "b")], "no such folder"),
        (
            ["pictures", str(tmp_path), str(tmp_path / "a.png" / "b")],
            "Error: " + str(tmp_path / "a.png" / "b: Not a directory"),
        ),
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1 and message in result.output


LEAN = """
import sys
for name in ("jsonargparse", "imagecodecs", "skimage"):
    sys.modules[name] = None  # an import of it fails
from moceir.training.slices import main
main(sys.argv[1:])
"""


def test_a_slice_needs_little(tmp_path: Path) -> None:
    """Lent machines have what training needs and no more."""
    root = published(tmp_path / "sets")
    words = arguments(tmp_path / "run", root, "--max_minutes", "9", "--steps", "1")
    done = subprocess.run(
        [sys.executable, "-c", LEAN, "train", str(tmp_path / "state"), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "state-00000001-1of1-" in done.stdout and "model.safetensors" in done.stdout
