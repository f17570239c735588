from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_round, report

ROOT = Path(__file__).parents[1]


def test_dry_run(tmp_path: Path) -> None:
    """Everything in the round that needs no GPU, and what it writes."""
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_round", "--dry-run", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = (p for p in tmp_path.glob("dry_*.json") if "benchmarks" not in p.name)
    outcomes = {s["step"]: s["outcome"] for s in json.loads(written.read_text())["steps"]}
    assert outcomes.pop("build") == outcomes.pop("compute-sanitizer") == "skipped"
    assert set(outcomes.values()) == {"passed"}, written.read_text()
    stem = written.stem
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{stem}{end}"
        for end in (".json", ".md", "_benchmarks.json", "_benchmarks.md", "_roofline.png")
    }
    table = (tmp_path / f"{stem}_benchmarks.md").read_text()
    assert "| `fft_attention` |" in table and "| reference | " in table


def test_a_step_that_fails_or_hangs_is_recorded() -> None:
    fails = (sys.executable, "-c", "print('why'); exit(3)")
    passes = (sys.executable, "-c", "print('well')")
    hangs = (sys.executable, "-c", "import signal; signal.pause()")
    failed = gpu_round.run(gpu_round.Step("a", [fails, passes], 60), 60)
    assert (failed["outcome"], failed["exit_status"]) == ("failed", [3, 0])
    assert [output.strip() for output in failed["outputs"]] == ["why", "well"]
    hung = gpu_round.run(gpu_round.Step("b", [hangs, hangs], 60), 0.5)
    assert (hung["outcome"], hung["exit_status"]) == ("timed out", [-9, -9])
    assert gpu_round.run(gpu_round.Step("c", [], 1, skip="no such tool"), 60) == {
        "step": "c",
        "commands": [],
        "outcome": "skipped",
        "reason": "no such tool",
    }


def test_the_round_takes_less_than_nine_minutes(tmp_path: Path) -> None:
    assert sum(step.limit for step in gpu_round.steps(tmp_path, "gpu", False, None)) < 9 * 60


def test_rates_in_the_table() -> None:
    def bench(contender: str, median: float) -> dict:
        info = {"operator": "op", "size": "1", "dtype": "float32", "direction": "forward"}
        info |= {"contender": contender, "calls": 2, "bytes": 1e9, "flops": 3e9}
        return {"extra_info": info, "stats": {"median": median}}

    data = {
        "machine_info": {
            "moce": {
                "device": "D",
                "torch": "2",
                "commit": "c",
                "copy_bytes_per_second": 4e9,
                "matrix_flops_per_second": {"float32": 30e9},
            }
        },
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [bench("reference", 4.0), bench("cpu", 1.0)],
    }
    rows = report.table(data).splitlines()[-2:]
    assert rows[0].endswith("| cpu | 500.000 ms | 4.00x | 2.0 | 50 % | 6.0 | 20 % |")
    assert rows[1].endswith("| reference | 2000.000 ms | 1.00x | 0.5 | 12 % | 1.5 | 5 % |")
