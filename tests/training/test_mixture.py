"""Training on the sets of the literature: recipes, processes, passes, resuming, experts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moceir.data.datasets import Pair
from moceir.data.patches import FilePatches
from moceir.data.samples import CleanPictures, Mixture, Source
from moceir.errors import ConfigError, PictureError
from moceir.pictures.images import find_pictures
from moceir.training.config import DataConfig, OptimizerConfig, SetConfig, Share, TrainingConfig
from moceir.training.data import BatchStream, RestorationData, sources_of
from moceir.training.module import RestorationModule
from moceir.training.optimizer import published_lr_factor
from moceir.training.options import build, read_yaml
from moceir.training.run import main
from moceir.training.usage import read_usage
from tests.evaluation.trees import picture, published

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("published"))


def arguments(run: Path, root: Path, *more: str) -> list[str]:
    values = {
        "config": CONFIGS / "aio5.yaml",
        "data.root": root,
        "run": run,
        "model": '{"dim": 8, "num_blocks": [1, 1], "num_dec_blocks": [1], "heads": [1, 1], '
        '"num_refinement_blocks": 0}',
        "data.crop": 16,
        "data.batch_size": 4,
        "data.workers": 0,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_steps": 1,
        "optimizer.lr": 1e-3,
        "steps": 3,
        "log_every": 1,
        "validate_every": 2,
        "precision": "32-true",
        "accelerator": "cpu",
    }
    if "--epochs" not in more:
        values["epochs"] = "null"
    return [word for name, value in values.items() for word in (f"--{name}", str(value))] + [*more]


def curve(run: Path, tag: str = "train/loss") -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "curves"))
    events.Reload()
    # A resumed run has a file for each start: they are read in the order of their names.
    return [point.value for point in sorted(events.Scalars(tag), key=lambda point: point.step)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["current_model_state"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    main(arguments(run, root))
    return run


def load(path: Path) -> TrainingConfig:
    return build(read_yaml(path))


def test_recipes_have_the_published_proportions(root: Path) -> None:
    aio3, aio5 = load(CONFIGS / "aio3.yaml"), load(CONFIGS / "aio5.yaml")
    parts = {(p.set, p.degradation): p.repeat for p in aio5.data.mixture}
    sizes = {"wed": 4744, "bsd400": 400, "raintrainl": 200, "ots": 72135}
    assert sum(sizes[p.set] * p.repeat for p in aio3.data.mixture if p.set) == 142_431
    noise = {(name, f"noise:sigma={s}"): 3 for name in ("wed", "bsd400") for s in (15, 25, 50)}
    others = {("raintrainl", None): 120, ("ots", None): 1, ("gopro", None): 5, ("lolv1", None): 20}
    assert parts == {**noise, **others}
    assert (aio3.epochs, aio5.epochs) == (120, 120)
    for name, count in {"all": 11, "single": 4, "double": 5, "triple": 2, "one": 1}.items():
        config = load(CONFIGS / f"cdd11_{name}.yaml")
        assert len(config.data.mixture) == count and config.epochs == 200
        assert all(p.repeat == 2 for p in config.data.mixture)
        config.data.root = root
        assert len(sources_of(config.data)) == count
    for config in (aio3, aio5):
        assert (config.data.crop, config.data.batch_size) == (128, 32)
        assert (config.optimizer.lr, config.optimizer.schedule) == (2e-4, "published")


def test_the_published_schedule() -> None:
    factors = [published_lr_factor(epoch) for epoch in range(200)]
    assert factors[0] == 0 and factors[7] == 0.5 and factors[14] == factors[15] == 1
    assert factors[119] == pytest.approx(0.5 * (1 + np.cos(np.pi * 104 / 135)))
    assert factors[150] == pytest.approx(0) and factors[199] > 0.1  # it climbs again


def test_the_schedule_goes_by_epochs(tmp_path: Path, root: Path) -> None:
    """Two pictures four times: two steps of four patches make an epoch."""
    words = ["--optimizer.schedule", "published", "--epochs", "2"]
    words += ["--data.mixture", '[{"set": "raintrainl", "repeat": 4}]']
    main(arguments(tmp_path / "run", root, *words))
    np.testing.assert_allclose(
        curve(tmp_path / "run", "train/lr"), [0, 0, 1e-3 / 14, 1e-3 / 14], rtol=1e-6
    )


@pytest.mark.parametrize("mixture", [True, False])
def test_however_a_step_is_divided_its_patches_are_the_same(root: Path, mixture: bool) -> None:
    pairs = (Pair(root / "deraining/Rain100L/gt/1.png", root / "deraining/Rain100L/rainy/1.png"),)
    samples = Mixture([Source(pairs, "rain", repeat=7)]) if mixture else clean(root)
    source = FilePatches(samples, 16, seed=0)
    whole = iter(BatchStream(source, 5, Share(8)))
    parts = [iter(BatchStream(source, 5, Share(2, rank, 2, 2))) for rank in range(2)]
    device = torch.device("cpu")
    for step in (5, 6):
        reads = sorted((next(part) for part in parts for _ in range(2)), key=lambda r: r.numbers)
        expected = next(whole)
        assert expected.numbers == [*range(8 * step, 8 * step + 8)]
        assert [read.numbers[0] for read in reads] == expected.numbers[::2]
        batches = [source.batch(read, device) for read in reads]
        found = source.batch(expected, device)
        for part, of_whole in zip(zip(*batches, strict=True), found, strict=True):
            if isinstance(of_whole, torch.Tensor):
                assert torch.equal(torch.cat(part), of_whole)
            else:
                assert [label for labels in part for label in labels] == of_whole


def clean(root: Path) -> CleanPictures:
    return CleanPictures(tuple(find_pictures(root / "denoising/cBSD68")), ("noise", "haze"))


def test_workers_do_not_change_the_order(root: Path) -> None:
    train = root / "denoising/cBSD68"
    alone, workers = (
        RestorationData(
            TrainingConfig(
                preset="compact",
                data=DataConfig(train=train, crop=16, batch_size=2, cache_mb=0, workers=workers),
            )
        ).batches()
        for workers in (0, 2)
    )
    for _ in range(4):
        ahead, now = next(workers), next(alone)
        assert ahead.numbers == now.numbers and np.array_equal(ahead.clean, now.clean)


def test_where_pictures_are_kept_makes_no_difference(root: Path) -> None:
    """On the device, or, where they do not fit, read from their files."""
    found = []
    for cache_mb in (2000, 0):
        train = root / "denoising/cBSD68"
        config = DataConfig(train=train, crop=16, batch_size=4, cache_mb=cache_mb)
        data = RestorationData(TrainingConfig(preset="compact", seed=3, data=config))
        read = next(data.batches(start=7))
        assert (read.clean is None) == (cache_mb > 0)
        found.append(data.source.batch(read, torch.device("cpu")))
    assert torch.equal(found[0].clean, found[1].clean)
    assert torch.equal(found[0].degraded, found[1].degraded)
    assert found[0].labels == found[1].labels


def test_a_run_counts_by_the_labels_of_its_sets(root: Path) -> None:
    mixture = [SetConfig("wed", degradation="noise:sigma=25"), SetConfig("raintrainl")]
    config = TrainingConfig(
        preset="compact", data=DataConfig(root=root, mixture=mixture, crop=16, batch_size=4)
    )
    data = RestorationData(config)
    module = RestorationModule(config, data.source.samples.labels)
    assert module.labels == ["noise", "rain"]


SCRIPT = "import sys\nfrom moceir.training.run import main\nmain(sys.argv[1:])\n"


def test_two_processes_equal_one(tmp_path: Path, root: Path, finished: Path) -> None:
    """The same losses and weights, routing noise and auxiliary loss included."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = arguments(tmp_path / "run", root, "--devices", "2")
    process = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    for tag in ("train/loss", "train/aux_loss", "compute/forward_petamacs"):
        one, two = curve(finished, tag), curve(tmp_path / "run", tag)
        assert len(one) == 3
        np.testing.assert_allclose(two, one, rtol=1e-5)
    expected = weights(finished)
    for key, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-6, msg=key)
    assert (tmp_path / "run/experts.csv").read_text() == (finished / "experts.csv").read_text()


def test_two_passes_equal_one(tmp_path: Path, root: Path) -> None:
    """Without the auxiliary loss, which is a function of a whole batch, and routing noise."""
    words = ["--optimizer.auxiliary_weight", "0", "--model.routing_noise", "never", "--steps", "2"]
    for name, accumulate in (("one", "1"), ("two", "2")):
        main(arguments(tmp_path / name, root, *words, "--accumulate", accumulate))
    expected = weights(tmp_path / "one")
    for key, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-6, msg=key)


def test_bfloat16_trains_as_float32_does(tmp_path: Path, root: Path, finished: Path) -> None:
    run = tmp_path / "run"
    main(arguments(run, root, "--precision", "bf16-mixed"))
    for ours, exact in zip(curve(run), curve(finished), strict=True):
        assert ours == pytest.approx(exact, rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in weights(run).values())


def test_a_line_that_was_cut_short_is_forgotten(tmp_path: Path, root: Path, finished: Path) -> None:
    run = tmp_path / "run"
    words = arguments(run, root, "--max_minutes", "0", "--log_every", "1")
    main(words)
    with open(run / "experts.csv", "a") as file:
        file.write("1,no")
    while main(words) != run / "model.safetensors":
        pass
    assert (run / "experts.csv").read_text() == (finished / "experts.csv").read_text()


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, root: Path, finished: Path
) -> None:
    """Stopped by its time after every step: bit by bit, and no line of experts.csv is lost."""
    run = tmp_path / "run"
    words = arguments(run, root, "--max_minutes", "0", "--log_every", "1")
    assert main(words) == run / "last.ckpt"
    assert not (run / "model.safetensors").exists()
    assert main(words) == run / "last.ckpt"
    assert main(words) == run / "model.safetensors"
    expected = weights(finished)
    for key, tensor in weights(run).items():
        assert torch.equal(tensor, expected[key]), key
    assert (run / "experts.csv").read_text() == (finished / "experts.csv").read_text()
    assert curve(run, "compute/forward_petamacs") == curve(finished, "compute/forward_petamacs")


def test_sample_pictures_are_those_of_a_step(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "curves"))
    events.Reload()
    (tag,) = events.Tags()["images"]
    assert tag == "degraded, restored, clean/training"
    (image,) = events.Images(tag)
    assert (image.width, image.height) == (3 * 16, 4 * 16)


def test_experts_are_counted_by_degradation(finished: Path) -> None:
    usage = read_usage(finished / "experts.csv")
    assert set(usage) <= {f"noise_{s}" for s in (15, 25, 50)} | {
        *("rain", "haze", "motion_blur", "low_light")
    }
    # Three steps of four patches, each once at the only block.
    assert sum(int(counts.sum()) for counts in usage.values()) == 12
    assert all(counts.shape[1:] == (1, 4) for counts in usage.values())


def test_the_supervised_router_learns_its_labels(tmp_path: Path, root: Path) -> None:
    words = ["--model.router", "supervised", "--steps", "20", "--optimizer.lr", "3e-2"]
    words += ["--expert_of", '{"rain": 4, "haze": 4}', "--optimizer.auxiliary_weight", "1"]
    words += ["--data.mixture", '[{"set": "raintrainl"}, {"set": "ots"}]']
    main(arguments(tmp_path / "run", root, *words))
    losses = curve(tmp_path / "run", "train/aux_loss")
    assert losses[0] > 1.0 and np.mean(losses[-5:]) < 0.7
    usage = torch.stack(list(read_usage(tmp_path / "run" / "experts.csv").values())).sum(0)
    assert usage[-5:, 0, 3].sum() > 0.7 * usage[-5:].sum()


def test_labels_without_an_expert_are_spread() -> None:
    config = TrainingConfig(preset="compact", expert_of={"rain": 1})
    config.data.kinds = ["noise", "rain", "haze"]
    module = RestorationModule(config)
    assert module.labels == ["noise", "rain", "haze", "several"]
    assert module.expert_targets() == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.root", "none"], "none: no such folder"),
        (["--data.mixture", '[{"set": "wedd"}]'], "unknown set 'wedd'"),
        (["--data.mixture", '[{"set": "wed"}]'], "wed has only clean images"),
        (["--data.mixture", '[{"set": "ots", "degradation": "rain"}]'], "already degraded"),
        (["--data.mixture", '[{"repeat": 2}]'], "either a set or a folder"),
        (["--data.batch_size", "5", "--devices", "2"], "multiple of devices x nodes"),
        (["--optimizer.schedule", "published"], "needs epochs"),
        (["--optimizer.schedule", "stairs"], "choose cosine, published"),
        (["--epochs", "1", "--data.batch_size", "5000"], "an epoch has .* less than"),
        (["--expert_of", '{"rain": 5}'], "rain has expert 5: give 1 to 4"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, root: Path, words: list[str], message: str) -> None:
    with pytest.raises((ConfigError, PictureError), match=message):
        main(arguments(tmp_path / "run", root, *words))
    assert not (tmp_path / "run").exists()


def test_bad_pictures_stop_the_run(tmp_path: Path) -> None:
    picture(tmp_path / "bad/1.png", 40, 36)
    picture(tmp_path / "good/1.png", 36, 40)
    part = f'[{{"clean": "{tmp_path}/good", "degraded": "{tmp_path}/bad"}}]'
    with pytest.raises(PictureError, match="the two must have the same size"):
        main(arguments(tmp_path / "run", tmp_path, "--data.mixture", part))
    assert not list((tmp_path / "run").glob("*.ckpt"))


def test_configurations_are_read_back(finished: Path) -> None:
    config = load(finished / "config.yaml")
    assert config.data.mixture[0] == SetConfig(
        "wed", degradation="noise:sigma=15", label="noise_15", repeat=3
    )
    assert dataclasses.asdict(config.optimizer)["lr"] == 1e-3
    assert isinstance(config.optimizer, OptimizerConfig)
