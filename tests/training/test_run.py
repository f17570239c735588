"""Runs from end to end: resuming, stopping, and what is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image

from moceir.data.patches import Read
from moceir.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteLoss,
    PictureError,
    WeightsError,
)
from moceir.model import MoCEIR, load_model, load_weights
from moceir.training import run
from moceir.training.config import DistillConfig, OptimizerConfig, TrainingConfig
from moceir.training.data import RestorationData
from moceir.training.loop import Training
from moceir.training.module import RestorationModule
from moceir.training.options import parse
from moceir.training.run import main
from moceir.training.step import TrainingStep

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(3):
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def arguments(run: Path, pictures: Path, *more: str) -> list[str]:
    values = {
        "run": run,
        "preset": "compact",
        "model.num_blocks": "[1,1,1,1]",
        "data.train": pictures,
        "data.crop": 32,
        "data.batch_size": 2,
        "optimizer.lr": 1e-3,
        "optimizer.warmup_steps": 2,
        "steps": 4,
        "checkpoint_every": 2,
        "precision": "32-true",
        "accelerator": "cpu",
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))] + [*more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run of four steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    main(arguments(run, pictures))
    return run


def test_a_run_leaves_weights_configuration_and_curves(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("last.ckpt", "config.yaml", "versions.json", "experts.csv", "model.safetensors"),
        "curves",
    }
    assert any(path.name.startswith("events") for path in (finished / "curves").iterdir())
    assert load_weights(finished / "model.safetensors").config.num_blocks == (1, 1, 1, 1)


def test_an_attempt_without_a_checkpoint_leaves_no_counts(
    finished: Path, pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    whole = (finished / "experts.csv").read_text()
    (run / "experts.csv").write_text(whole)
    main(arguments(run, pictures))
    assert (run / "experts.csv").read_text() == whole


def test_relative_losses_have_no_teachers() -> None:
    with pytest.raises(ConfigError, match=r"relative and distill\.teachers .*choose another loss"):
        TrainingConfig(
            distill=DistillConfig(teachers={"noise": "compact"}),
            optimizer=OptimizerConfig(loss="relative"),
        )


def test_the_weights_are_the_average(finished: Path) -> None:
    checkpoint = torch.load(finished / "last.ckpt", weights_only=True)
    key = "model.stem.weight"
    averaged = load_weights(finished / "model.safetensors").stem.weight
    assert torch.equal(averaged, checkpoint["state_dict"][key])
    assert not torch.equal(averaged, checkpoint["current_model_state"][key])


def test_a_checkpoint_is_weights_too(finished: Path) -> None:
    """The averaged ones, with the run's configuration."""
    average = load_weights(finished / "model.safetensors")
    loaded = load_model(finished / "last.ckpt")
    assert loaded.config == average.config
    for a, b in zip(loaded.parameters(), average.parameters(), strict=True):
        assert torch.equal(a, b)


KILLED = """
import os, signal, sys
from moceir.training import run
from moceir.training.step import TrainingStep

class Killer(TrainingStep):
    def __call__(self, step, parts):
        super().__call__(step, parts)
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)

run.TrainingStep = Killer
run.main(sys.argv[1:])
"""


def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, pictures: Path, finished: Path
) -> None:
    """Killed a step after its checkpoint: the lost step is done again, bit by bit."""
    words = arguments(tmp_path / "run", pictures)
    process = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    main(words)
    expected = torch.load(finished / "last.ckpt", weights_only=True)
    resumed = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert resumed["global_step"] == expected["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        for key, tensor in expected[part].items():
            assert torch.equal(resumed[part][key], tensor), (part, key)


def test_pictures_that_do_not_fit_on_the_device_train_the_same(
    tmp_path: Path, pictures: Path, finished: Path
) -> None:
    """In the other tests they fit: here a process of a DataLoader cuts the patches."""
    main(arguments(tmp_path / "run", pictures, "--data.cache_mb", "0", "--data.workers", "1"))
    expected = load_weights(finished / "model.safetensors").state_dict()
    for key, tensor in load_weights(tmp_path / "run" / "model.safetensors").state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def test_batches_that_are_degraded_together_are_those_of_their_passes(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here those of three steps of two passes; and from the second of the three on."""
    monkeypatch.setattr("moceir.training.data.TOGETHER", 3 * 4 * 32 * 32)
    words = arguments(tmp_path / "run", pictures, "--accumulate", "2", "--data.batch_size", "4")
    config = parse(words)
    data = RestorationData(config)
    assert data.together == 6
    fabric = Fabric(accelerator="cpu", devices=1)
    module = RestorationModule(config, data.source.samples.labels)
    training = Training(fabric, module, TrainingStep(module), data)
    for done in (3, 4):
        training.done = done
        passes = training.passes()
        for number in range(2 * done, 2 * done + 8):
            found = next(passes)
            expected = data.source.batch(Read([2 * number, 2 * number + 1]), torch.device("cpu"))
            assert torch.equal(found.clean, expected.clean)
            assert torch.equal(found.degraded, expected.degraded)
            assert found.labels.tolist() == expected.labels


def test_a_finished_run_stays_as_it_is(finished: Path, pictures: Path) -> None:
    before = load_weights(finished / "model.safetensors").state_dict()
    main(arguments(finished, pictures))
    for key, tensor in load_weights(finished / "model.safetensors").state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_validation_logs_gains_and_pictures(tmp_path: Path, pictures: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--data.validation", str(pictures), "--data.validation_pictures", "1"]
    words += ["--data.kinds", '["noise","haze"]', "--validate_every", "4"]
    main(arguments(tmp_path / "run", pictures, *words))
    events = EventAccumulator(str(tmp_path / "run" / "curves"))
    events.Reload()
    tags = events.Tags()
    assert {"psnr_gain/noise", "psnr_gain/haze"} <= set(tags["scalars"])
    assert tags["images"] == ["degraded, restored, clean/0"]


def test_a_run_starts_from_weights(tmp_path: Path, pictures: Path, finished: Path) -> None:
    """At rate 0 the weights stay what they were; those of another network are refused."""
    words = ["--weights", str(finished / "model.safetensors"), "--steps", "1"]
    weights = main(arguments(tmp_path / "run", pictures, *words, "--optimizer.lr", "0"))
    expected = load_weights(finished / "model.safetensors").state_dict()
    for key, tensor in load_weights(weights).state_dict().items():
        torch.testing.assert_close(tensor, expected[key], msg=key)
    with pytest.raises(WeightsError, match="tensors do not fit"):
        main(arguments(tmp_path / "other", pictures, *words, "--model.dim", "24"))


def test_a_run_starts_from_weights_without_expert_path(tmp_path: Path, pictures: Path) -> None:
    """It begins with their tensors and no change on the new path, whose projections learn."""
    without = ["--steps", "2", "--model.expert_path", "false"]
    start = main(arguments(tmp_path / "without", pictures, *without))
    before = load_weights(start)
    words = ["--weights", str(start), "--model.expert_path", "true"]
    for rate, same in (("0", True), ("1e-3", False)):
        run = tmp_path / rate
        more = [*words, "--steps", "2", "--optimizer.lr", rate]
        network = load_weights(main(arguments(run, pictures, *more)))
        path = network.decoder[0].blocks[0].expert_path.weight
        assert path.eq(0).all() == same
        state = network.state_dict()
        kept = [torch.equal(state[name], tensor) for name, tensor in before.state_dict().items()]
        assert all(kept) == same


def test_a_run_starts_from_weights_with_fewer_refinement_blocks(
    tmp_path: Path, pictures: Path, finished: Path
) -> None:
    """The further ones change nothing at first, and learn."""
    before = load_weights(finished / "model.safetensors")
    blocks = before.config.num_refinement_blocks + 2
    words = ["--weights", str(finished / "model.safetensors"), "--steps", "2"]
    words += ["--model.num_refinement_blocks", str(blocks)]
    image = torch.rand(1, 3, 24, 32)
    for rate, same in (("0", True), ("1e-3", False)):
        more = arguments(tmp_path / rate, pictures, *words, "--optimizer.lr", rate)
        network = load_weights(main(more))
        assert len(network.refinement) == blocks
        last = network.refinement[-1].feedforward.project_out.weight
        assert last.eq(0).all() == same
        with torch.no_grad():
            assert torch.allclose(network(image), before(image), atol=1e-6) == same
    fewer = arguments(tmp_path / "fewer", pictures, "--model.num_refinement_blocks", "0")
    start = str(main([*fewer, "--steps", "1"]))
    with pytest.raises(WeightsError, match="tensors do not fit"):
        main(arguments(tmp_path / "none", pictures, "--weights", start, "--steps", "1"))


def test_what_the_starting_weights_teach_does_not_change(
    tmp_path: Path, pictures: Path, finished: Path
) -> None:
    """With these as every kind's teacher there is nothing to learn, even after resuming."""
    start = str(finished / "model.safetensors")
    words = ["--weights", start, "--optimizer.auxiliary_weight", "0", "--model.routing_noise"]
    words += ["never", "--optimizer.weight_decay", "0", "--data.kinds", '["noise","rain"]']
    words = arguments(tmp_path / "run", pictures, *words, "--distill.teachers.rain", start)
    rest = ["--distill.teachers.noise", start, "--distill.teachers.several", start]
    main([*words, *rest, "--max_minutes", "0"])
    weights = load_weights(main([*words, *rest])).state_dict()
    for key, tensor in load_weights(start).state_dict().items():
        torch.testing.assert_close(weights[key], tensor, msg=key)
    learned = load_weights(main([*words, "--run", str(tmp_path / "other")]))
    assert not torch.equal(learned.output.weight, weights["output.weight"])


def test_each_label_has_its_own_teacher(pictures: Path) -> None:
    config = parse(arguments(Path("run"), pictures, "--data.max_mixture", "1"))
    teachers = [MoCEIR(config.network()) for _ in range(2)]
    module = RestorationModule(config, None, {"noise": teachers[0], "jpeg": teachers[1]})
    clean, degraded = torch.rand(2, 4, 3, 16, 16)
    labels = [module.labels.index(label) for label in ("jpeg", "rain", "noise", "jpeg")]
    taught = module.targets(clean, degraded, labels)
    assert taught is not None
    target, weight = taught
    # The more weight the less there is to change.
    change = (target - degraded).abs().flatten(1).mean(1)
    torch.testing.assert_close(weight, torch.tensor([1, 0, 1, 1]) * 0.1 / (change + 0.01))
    torch.testing.assert_close(target[1], clean[1])
    torch.testing.assert_close(target[2:3], teachers[0](degraded[2:3]))
    torch.testing.assert_close(target[[0, 3]], teachers[1](degraded[[0, 3]]))
    assert not any("teacher" in name for name in module.state_dict())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, pictures: Path) -> None:
    main(arguments(tmp_path / "run", pictures, "--steps", "2"))
    last = tmp_path / "run" / "last.ckpt"
    good = last.read_bytes()
    with pytest.raises(NonFiniteLoss, match=r"at step 3 .*lower optimizer\.lr"):
        main(arguments(tmp_path / "run", pictures, "--steps", "9", "--optimizer.lr", "1e30"))
    assert last.read_bytes() == good


def test_another_network_does_not_continue_a_run(finished: Path, pictures: Path) -> None:
    with pytest.raises(CheckpointError, match="another network"):
        main(arguments(finished, pictures, "--model.dim", "24"))


def test_another_optimiser_does_not_continue_a_run(finished: Path, pictures: Path) -> None:
    with pytest.raises(CheckpointError, match=r"exp_avg.* in place of .*momentum"):
        main(arguments(finished, pictures, "--optimizer.muon", "true", "--steps", "5"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a readable checkpoint"):
        main(arguments(tmp_path, pictures))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.dimm", "3"], "did you mean 'dim'"),
        (["--preset", "compakt"], "unknown preset 'compakt'"),
        (["--stepps", "3"], "stepps"),
        (["--steps", "many"], "steps"),
        (["--data.crop", "2"], r"data\.crop is 2"),
        (["--data.mixed", "1.5"], r"data\.mixed is 1\.5"),
        (["--data.clean", "2"], r"data\.clean is 2"),
        (["--distill.weight", "0"], r"distill\.weight is 0"),
        (["--config", "none.yaml"], r"none\.yaml"),
    ],
)
def test_bad_overrides_are_named(
    tmp_path: Path, pictures: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments(tmp_path / "run", pictures, *words))
    assert not (tmp_path / "run").exists()


def test_a_label_to_teach_that_no_patch_has_is_named(
    tmp_path: Path, pictures: Path, finished: Path
) -> None:
    words = ["--distill.teachers", f'{{"fog": "{finished / "model.safetensors"}"}}']
    with pytest.raises(ConfigError, match=r"distill\.teachers: 'fog' is none of noise, rain"):
        main(arguments(tmp_path / "run", pictures, *words))


def test_bad_pictures_are_named(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="no images in it"):
        main(arguments(tmp_path / "run", tmp_path / "empty"))
    (tmp_path / "empty" / "bad.png").write_bytes(b"text")
    with pytest.raises(PictureError, match=r"bad\.png: not an image"):
        main(arguments(tmp_path / "run", tmp_path / "empty"))


FULL_DISK = """
import resource, sys
from moceir.model import MoCEIR
from moceir.training.module import RestorationModule
from moceir.training.options import parse
from moceir.training.run import main
main(sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    main([*sys.argv[1:], "--steps", "4"])
except Exception as error:
    print("\\nstopped:", type(error).__name__, error)
"""


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, pictures: Path) -> None:
    words = arguments(tmp_path / "run", pictures, "--steps", "2")
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *words], cwd=ROOT, capture_output=True, text=True
    )
    message = process.stdout.partition("\nstopped: ")[2]
    assert message.startswith("CheckpointError"), process.stderr
    assert "last.ckpt" in message and "disk" in message
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert not list((tmp_path / "run").glob(".*.part"))


def test_no_process_takes_memory_of_the_first_gpu(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several GPUs each process uses its own alone, which ``Fabric`` gives it."""

    class Reached(Exception):
        pass

    def fabric(**_: object) -> None:
        raise Reached

    def find_device(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run, "Fabric", fabric)
    monkeypatch.setattr(run, "find_device", find_device)
    config = parse(arguments(tmp_path / "run", pictures, "--accelerator", "cuda"))
    with pytest.raises(Reached):
        run.train(config)
