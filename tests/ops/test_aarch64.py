"""The NEON kernels without an Arm processor: the CPU library's sources compiled for 64-bit Arm and
run in an emulator (tests/aarch64), under the same table of tests as on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.aarch64.build import CLANG, GCC, ROOT, build, missing

ACCURATE = "twice_plain_pytorch"


@pytest.fixture(scope="module")
def gcc_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("gcc"), GCC)


@pytest.fixture(scope="module")
def clang_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("clang"), CLANG)


def program(folder: Path, compiler: tuple[str, ...]) -> Path:
    reason = missing(compiler)
    if reason:
        pytest.skip(reason)
    path = folder / "operators"
    build(path, compiler)
    return path


def test_against_float64(gcc_program: Path) -> None:
    run_tests(gcc_program, ACCURATE)


@pytest.mark.slow
def test_rest_of_the_table(gcc_program: Path) -> None:
    """Work divided among several threads, and gradients one by one."""
    run_tests(gcc_program, "deterministic or one_gradient")


@pytest.mark.slow
def test_compiled_by_clang(clang_program: Path) -> None:
    """The compiler of macOS."""
    run_tests(clang_program, ACCURATE)


def run_tests(program: Path, selected: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.aarch64.plugin"),
            *("tests/ops/test_all_ops.py", "-k", f"cpu and ({selected})"),
        ],
        cwd=ROOT,
        env={**os.environ, "MOCE_TEST_PROGRAM": str(program)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
