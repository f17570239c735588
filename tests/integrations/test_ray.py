"""Restoring on a Ray cluster, here of two workers. Run where Ray is installed: it is not among the
requirements of the tests, for its size."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from moceir.errors import ConfigError
from moceir.inference.jobs import Job, Outcome, Plan
from moceir.inference.planning import plan_files
from tests.small_network import picture, restorer, weights

ray = pytest.importorskip("ray", reason="pip install 'moceir[ray]'")
from moceir.integrations import ray as cluster  # noqa: E402

__all__ = ["restorer", "weights"]  # fixtures


@pytest.fixture(scope="module")
def two_cores() -> Iterator[None]:
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": root}},
        )
        yield
        ray.shutdown()


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def workers() -> list[int]:
    """Our processes that Ray has named after what they do, below its raylet."""
    every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    named = [p for p in every if b"ray::MapWorker" in Path(f"/proc/{p}/cmdline").read_bytes()]
    return sorted(process for process in named if parent(parent(process)) == os.getpid())


@pytest.mark.usefixtures("two_cores")
def test_a_killed_worker_loses_and_doubles_nothing(tmp_path: Path, weights: Path) -> None:
    for i in range(120):
        picture(tmp_path / "in" / f"{i}.png", 24 + i % 3)
    (tmp_path / "in" / "7.png").write_text("text")
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 20:
            os.kill(workers()[0], signal.SIGKILL)

    manifest = tmp_path / "run.jsonl"
    plan = plan_files([tmp_path / "in", tmp_path / "none"], tmp_path / "out", manifest=manifest)
    counts = cluster.restore_files(
        plan,
        workers=(2, 2),
        block=5,
        window=80,
        report=report,
        network={"model": str(weights), "device": "cpu"},
        quality=90,
    )
    assert counts == Counter(outcome.status for outcome in outcomes)
    assert counts["failed"] == 2 and counts["restored"] + counts.get("skipped", 0) == 119
    assert len({outcome.output for outcome in outcomes}) == len(outcomes) == 121
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert sorted(line["output"] for line in lines) == sorted(o.output for o in outcomes)
    for i in range(120):
        if i != 7:
            assert Image.open(tmp_path / "out" / f"{i}.png").size == (24 + i % 3, 16)


def test_arguments_are_checked_before_anything_starts(tmp_path: Path) -> None:
    plan = Plan([Job(tmp_path / "a.png", tmp_path / "b.png")])
    for settings, message in (
        ({"quality": 0}, "quality 0"),
        ({"block": 0}, "block 0"),
        ({"block": 10, "window": 5}, "window 5"),
        ({"workers": (3, 2)}, "workers 3 to 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            cluster.restore_files(plan, **settings)
    with pytest.raises(ConfigError, match="give one instead of -"):
        cluster.restore_files(Plan([Job(None, tmp_path / "b.png")]))
