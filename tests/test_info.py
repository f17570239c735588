from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from moce_kernels import info
from moce_kernels.backends import BACKENDS, OPERATORS, VARIABLE, choose, why_not

CPU = torch.device("cpu")


def test_report_says_what_runs_and_why_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    lines = info.report().splitlines()
    for operator in OPERATORS:
        at = lines.index(f"{operator} on cpu: {choose(operator, None, CPU)}")
        for backend, line in zip(BACKENDS, lines[at + 1 :], strict=False):
            assert line.split(maxsplit=1) == [
                backend,
                why_not(backend, operator, CPU) or "can run",
            ]


def test_report_survives_a_variable_that_cannot_be_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    report = info.report()
    assert f"{VARIABLE}=triton" in report
    assert "fft_attention on cpu: nothing: fft_attention: backend 'triton' cannot run" in report


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moce_kernels.info"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"torch {torch.__version__}\nCPU library: ")
