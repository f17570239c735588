from __future__ import annotations

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
