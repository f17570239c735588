from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from moce_kernels import info, registry, use_backends
from moce_kernels.backends import BACKENDS, VARIABLE, choose, why_not

CPU = torch.device("cpu")


def test_report_says_what_runs_and_why_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    lines = info.report().splitlines()
    for operator in registry.names():
        runs = choose(operator, None, CPU)
        at = lines.index(f"{operator} on cpu: {runs}, the fastest that can run")
        for backend, line in zip(BACKENDS, lines[at + 1 :], strict=False):
            assert line.split(maxsplit=1) == [
                backend,
                why_not(backend, operator, CPU) or "can run",
            ]


def test_report_says_who_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "grouped_experts=reference")
    with use_backends(routing_plan="reference"):
        lines = info.report().splitlines()
    assert "use_backends: routing_plan=reference" in lines
    assert f"{VARIABLE}: grouped_experts=reference" in lines
    assert "routing_plan on cpu: reference, as use_backends says" in lines
    assert f"grouped_experts on cpu: reference, as {VARIABLE} says" in lines
    assert f"pointwise_conv on cpu: {choose('pointwise_conv', None, CPU)}, the fastest" in str(
        lines
    )


def test_report_survives_a_variable_that_cannot_be_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    report = info.report()
    assert f"{VARIABLE}: triton" in report
    assert "fft_attention on cpu: nothing: fft_attention: backend 'triton' cannot run" in report
    monkeypatch.setenv(VARIABLE, "fft_attention=fastest")
    assert info.report().splitlines()[-1].startswith(f"no operator runs: {VARIABLE}: in 'fft_att")


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moce_kernels.info"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"torch {torch.__version__}\nCPU library: ")
