"""The CUDA C++ kernels without a GPU: their source compiled for this CPU (tests/cuda_emulation),
where the threads of a block take turns. What a GPU alone can show: ``python -m bench.lease``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moce_kernels import registry
from tests.cuda_emulation.build import ROOT, build
from tests.ops.spec import selection


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    path = tmp_path_factory.mktemp("emulated") / "_moce_cpu.so"  # for CPU tensors
    build(compiler, path)
    return path


@pytest.mark.parametrize(
    ("shared_memory", "operators", "tests"),
    [
        (228 * 1024, registry.names("cuda"), "twice_plain_pytorch or deterministic or opcheck"),
        # It alone asks how much there is.
        (100 * 1024, ("fft_attention",), "twice_plain_pytorch and float32"),
        (0, ("fft_attention",), "(twice_plain_pytorch and float32) or opcheck"),  # nothing is fused
    ],
    ids=["H100", "RTX", "none"],
)
def test_table_of_operators(
    library: Path, shared_memory: int, operators: tuple[str, ...], tests: str
) -> None:
    """The same table of tests as for every kernel, on GPUs with more and less shared memory."""
    chosen = " or ".join(f"({selection(operator, 'cpu')})" for operator in operators)
    run_tests(library, "tests/ops/test_all_ops.py", f"({chosen}) and ({tests})", shared_memory)


@pytest.mark.parametrize(
    "part",
    ["grouped_depthwise_conv", "grouped_window_conv", "fused_feedforward", "fused_attention_sums"],
)
def test_parts_of_other_operators(part: str, library: Path) -> None:
    run_tests(library, f"tests/ops/test_{part}.py", "", 228 * 1024)


def test_composed_operators(library: Path) -> None:
    """What the backend ``cuda`` makes of the library's kernels and Triton's."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.ops.composed_of_cuda"],
        cwd=ROOT,
        env={
            **os.environ,
            "MOCE_TEST_LIBRARIES": str(library.parent),
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == list(registry.composed())


def run_tests(library: Path, file: str, selected: str, shared_memory: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.other_libraries"),
            *(file, "-k", selected),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "MOCE_TEST_LIBRARIES": str(library.parent),
            "MOCE_EMULATED_SHARED": str(shared_memory),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
