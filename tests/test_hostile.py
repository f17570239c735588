"""A part of the files of ``tests/hostile.py``; ``python -m tests.hostile`` takes all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to measure with")
def test_harmful_files_are_refused_soon_and_in_200_mb() -> None:
    # One thread: a fork has none of the others.
    run = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--seed", "3", "--every", "5", "--seconds", "10"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    wrong = [line for line in run.stdout.splitlines() if "WRONG" in line or "code was run" in line]
    assert run.returncode == 0 and not wrong, "\n".join(wrong) or run.stderr
    assert (
        "configurations: 17 of 85 files" in run.stdout and "weights: 32 of 161 files" in run.stdout
    )
