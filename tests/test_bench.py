"""The benchmarks of whole networks and of blocks run to their end; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.ops.spec import skip_unless_it_runs

ROOT = Path(__file__).parents[1]


def run(module: str, output: Path, *arguments: str) -> dict[str, Any]:
    """The JSON that it writes."""
    command = [sys.executable, "-m", module, "--output", str(output), *arguments]
    command += ["--rounds", "1", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch" in output.with_suffix(".md").read_text()
    return json.loads(output.with_suffix(".json").read_text())


def test_compare(tmp_path: Path) -> None:
    """Every contender runs its task, those named bf16 in bf16."""
    skip_unless_it_runs("cpu", "grouped_experts")
    tasks = {
        "compact_512": ["ours", "ours_bf16", "reference", "reference_bf16"],
        "compact_step": ["ours", "ours_bf16", "reference"],
    }
    report = run("bench.compare", tmp_path / "compare", "--quick", "--tasks", *tasks)
    found = {
        key: [row["contender"] for row in rows if row["median"] > 0]
        for key, rows in report["results"].items()
    }
    assert found == tasks
    inferred = {row["contender"]: row["difference"] for row in report["results"]["compact_512"]}
    assert inferred["reference"] == 0
    assert 0 < inferred["ours"] < 1e-5
    assert 1e-4 < inferred["ours_bf16"] < 2 * inferred["reference_bf16"]


def test_operators(tmp_path: Path) -> None:
    skip_unless_it_runs("cpu", "grouped_experts")
    size = ("--channels", "8", "16", "--images", "2", "--side", "8")
    rows = run("bench.operators", tmp_path / "operators", *size)["rows"]
    assert len(rows) == 4 * 2 * 2
    contenders = {"cpu_float32", "reference_float32", "cpu_bf16", "reference_bf16"}
    assert all(row["medians"].keys() == contenders for row in rows)
    assert all(seconds > 0 for row in rows for seconds in row["medians"].values())
