"""The kernels for older processors, on whatever processor this is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.spec import skip_unless_compiled

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("capability", "name"), [("avx512", "avx512"), ("avx2", "avx2"), ("default", "baseline")]
)
def test_against_float64(capability: str, name: str) -> None:
    """The same table of tests in a process that may not use the newer instructions."""
    skip_unless_compiled(name)
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    report = python("-m", "moce_kernels.info")
    found = re.search(r"runs with (\w+)", report)
    assert found is not None, report
    if found[1] != name and found[1] in ("avx2", "baseline"):
        pytest.skip(f"this processor has no {name}")
    assert found[1] == name
    tests = python(
        "-m", "pytest", "-q", "tests/ops/test_all_ops.py", "-k", "twice_plain_pytorch and cpu"
    )
    assert " passed" in tests
