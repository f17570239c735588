"""What the judge learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from moceir.model.judge import Judge
from moceir.training.judge import FOREIGN, Examples, Trials, fit, main, read
from moceir.weights.bundled import SPECIALISTS
from tests.browser import SAMPLE

CLEAN = SAMPLE.parent / "clean"


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials(CLEAN, 3)


def of(trials: Trials, numbers: list[int]) -> Examples:
    made = list(trials.of(numbers))
    return {key: torch.cat([each[key] for each in made]).numpy() for key in made[0]}


def test_what_a_trial_says(trials: Trials) -> None:
    numbers = list(range(8))
    got = of(trials, numbers)
    n = len(got["stage"])
    assert {key: value.shape for key, value in got.items()} == {
        "picture": (n,),
        "stage": (n,),
        "gain": (n,),
        "weight": (n,),
        "seen": (n, 17),
        "logits": (n, 8),
        "applied": (n, len(SPECIALISTS)),
    }
    assert all(np.isfinite(value).all() for value in got.values())
    assert set(got["picture"]) <= set(range(8))
    # Both answers come up, and a specialist is tried once.
    assert (got["gain"] > 1).any() and (got["gain"] < -0.1).any()
    assert n <= len(numbers) * len(SPECIALISTS)
    assert not got["applied"][np.arange(n), got["stage"]].any() and got["applied"].any()
    # What has a patch nothing for a specialist is tried less often, and counts the more.
    assert set(got["weight"]) == {1.0, np.float32(1 / FOREIGN)}


def test_trials_of_a_patch_depend_on_its_number_alone(trials: Trials) -> None:
    together, alone = of(trials, [4, 5]), of(trials, [5])
    first = of(trials, [4])
    assert len(together["stage"]) == len(first["stage"]) + len(alone["stage"])
    for of_patch in (first, alone):
        for i in range(len(of_patch["stage"])):
            same = together["stage"] == of_patch["stage"][i]
            differences = sum(
                np.abs(together[key][same] - of_patch[key][i]).reshape(same.sum(), -1).max(1)
                for key in ("picture", "gain", "weight", "seen", "logits", "applied")
            )
            assert differences.min() < 0.1


def test_it_learns_what_a_choice_costs() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    n, stages = 6000, len(SPECIALISTS)
    seen = random.random((n, 17), dtype=np.float32)
    # Where the first number is large there is a gain, three times in four; a loss is five times as
    # large, so that it is better to forgo the gain.
    large, often = seen[:, 0] > 0.5, random.random(n) < 0.75
    gain = np.where(large & often, 1.0, np.where(large, -5.0, -1.0)).astype(np.float32)
    certain = np.where(seen[:, 1] > 0.5, 3.0, -3.0).astype(np.float32)
    stage = np.arange(n) % stages
    gain = np.where(stage == 0, gain, certain)
    examples = {
        "picture": random.integers(0, 40, n),
        "stage": stage,
        "gain": gain,
        "weight": np.ones(n, np.float32),
        "seen": seen,
        "logits": random.standard_normal((n, 8)).astype(np.float32),
        "applied": np.zeros((n, stages), np.float32),
    }
    judge = Judge()
    fit(judge, examples, steps=600, batch=64, lr=2e-3)
    judge.eval()
    with torch.no_grad():
        for i, name in enumerate(SPECIALISTS):
            mine = stage == i
            given = (torch.from_numpy(examples[k][mine]) for k in ("seen", "logits", "applied"))
            chosen = (judge(name, *given) > 0).numpy()
            if i == 0:
                assert chosen.mean() < 0.1
            else:
                assert (chosen == (gain[mine] > 0)).mean() > 0.9, name


def test_from_the_command_line(tmp_path: Path) -> None:
    run, files = CliRunner(), [str(tmp_path / f"{i}.npz") for i in range(2)]
    for i, file in enumerate(files):
        asked = ["draw", str(CLEAN), file, "--patches", "3", "--first", str(3 * i)]
        result = run.invoke(main, asked, catch_exceptions=False)
        assert result.exit_code == 0 and "3 patches" in result.output
    both = read(tuple(Path(file) for file in files))
    assert len(both["seen"]) > 3
    weights = tmp_path / "judge.safetensors"
    result = run.invoke(
        main, ["fit", *files, "-o", str(weights), "--steps", "2"], catch_exceptions=False
    )
    assert result.exit_code == 0
    Judge().load_state_dict(load_file(weights))
