from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moce_kernels import fft_attention, native
from moce_kernels.backends import (
    BACKENDS,
    KERNELS,
    OPERATORS,
    VARIABLE,
    BackendUnavailableError,
    choose,
    why_not,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [*torch.randn(3, 1, 2, 4, 4, dtype=dtype), torch.ones(2), torch.zeros(2)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_runs_here(operator: str) -> None:
    runs = choose(operator, None, CPU)
    assert why_not(runs, operator, CPU) is None
    faster = BACKENDS[: BACKENDS.index(runs)]
    assert all(why_not(backend, operator, CPU) for backend in faster)


def test_float64_is_for_the_reference() -> None:
    assert choose("fft_attention", None, CPU, torch.float64) == "reference"
    with pytest.raises(BackendUnavailableError, match=r"cpu: .*not float64"):
        fft_attention(*inputs(torch.float64), 4, backend="cpu")


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_an_absent_backend_says_why_and_never_falls_back(backend: str) -> None:
    with pytest.raises(BackendUnavailableError) as raised:
        fft_attention(*inputs(), 4, backend=backend)
    message = str(raised.value)
    assert f"backend {backend!r} cannot run" in message
    for name in BACKENDS:  # each with its reason
        assert f"{name}: {why_not(name, 'fft_attention', CPU) or 'can run'}" in message


def test_the_environment_chooses_as_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose("fft_attention", None, CPU) == "reference"
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(BackendUnavailableError):
        choose("fft_attention", None, CPU)
    assert choose("fft_attention", "reference", CPU) == "reference"  # the argument goes before
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(ValueError, match=f"{VARIABLE} must be one of .*, not 'fastest'"):
        choose("fft_attention", None, CPU)


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"backend must be one of .*, not 'gpu'"):
        fft_attention(*inputs(), 4, backend="gpu")


@pytest.mark.parametrize("module", ["moce_kernels", "moceir.restore"])
def test_compilers_are_not_loaded(module: str) -> None:
    """torch._dynamo takes seconds, which those who compile nothing need not wait."""
    script = f"import sys, {module}; print('torch._dynamo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_compiler_still_knows_constants_by_this_mark() -> None:
    """backends sets it by hand."""
    assert torch.compiler.assume_constant_result(lambda: None)._dynamo_marked_constant
    assert choose._dynamo_marked_constant


@pytest.fixture
def fresh_loads() -> object:
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def test_without_the_library_the_reference_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, fresh_loads: object
) -> None:
    """As on a machine without a C++ compiler: setup.py notes why it left the library out."""
    (tmp_path / "_build.json").write_text('{"cpu": "there was no C++ compiler"}')
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    for operator in KERNELS["cpu"]:
        assert choose(operator, None, CPU) == "reference"
    with pytest.raises(BackendUnavailableError, match="no CPU library: there was no C\\+\\+ comp"):
        fft_attention(*inputs(), 4, backend="cpu")


def test_a_library_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, fresh_loads: object
) -> None:
    (tmp_path / "_moce_cpu.so").write_text("not a library")
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"_moce_cpu\.so does not load: .*"):
        fft_attention(*inputs(), 4, backend="cpu")
    assert choose("fft_attention", None, CPU) == "reference"


PROGRAM = """
import sys, warnings
from pathlib import Path
from moce_kernels import native

native.FOLDER = Path(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    reason = native.load("cpu")
print(reason or f"runs {native.cpu_capability()}")
assert [str(w.message) for w in caught] == [
    f"moce_kernels runs without its CPU kernels: {r}" for r in (reason,) if r
]
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have the baseline alone")
@pytest.mark.parametrize(
    ("sets", "limit", "result"),
    [
        ("avx512", "avx2", "compiled for avx512, which this processor or ATEN_CPU_CAPABILITY=avx2"),
        ("avx2 avx512", "default", "compiled for avx2, avx512, which .* install the package on"),
        ("baseline avx512", "avx2", "runs baseline"),
        ("baseline", None, "runs baseline"),
    ],
)
def test_a_library_for_other_processors(
    sets: str, limit: str | None, result: str, tmp_path: Path
) -> None:
    """What an environment that was copied to an older machine meets; newer ones run all of it."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    torch_folder = Path(torch.__file__).parent
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-isystem{torch_folder / 'include'}"]
    command += [f"-DMOCE_HAS_{name.upper()}" for name in sets.split()]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", str(ROOT / "csrc/cpu/capability.cpp")]
    command += ["-o", str(tmp_path / "_moce_cpu.so"), f"-L{torch_folder / 'lib'}"]
    subprocess.run([*command, "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    (tmp_path / "_build.json").write_text(json.dumps({"cpu_isa": sets.split()}))
    environment = {name: v for name, v in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env=environment | ({"ATEN_CPU_CAPABILITY": limit} if limit else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(result, done.stdout), done.stdout


@pytest.mark.parametrize(
    ("gpu", "runs"), [((8, 0), True), ((8, 9), True), ((7, 5), False), ((9, 0), False)]
)
def test_gpus_that_the_cuda_library_has_no_code_for(
    gpu: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_build.json").write_text('{"cuda": "built", "cuda_archs": ["8.0"]}')
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpu)
    reason = native.why_not_on_gpu.__wrapped__(0)
    if runs:
        assert reason is None
    else:
        here = f"{gpu[0]}.{gpu[1]}"
        assert f"built for 8.0 and this GPU is {here}" in reason
        assert f"MOCE_CUDA_ARCHS={here}" in reason
    (tmp_path / "_build.json").write_text('{"cuda": "built", "cuda_archs": ["7.5+PTX"]}')
    assert native.why_not_on_gpu.__wrapped__(0) is None  # compiled by the driver
