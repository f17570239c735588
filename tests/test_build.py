"""setup.py's decisions, and what the built CUDA library is like."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from moce_kernels import native
from tests import oldest
from tests.cuda_emulation import build as emulation

ROOT = Path(__file__).parents[1]
KNOWN = ["75", "80", "86", "89", "90", "100"]


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("moce_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("MOCE_CPU_ISA", "MOCE_CUDA", "MOCE_CUDA_ARCHS", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return load_setup()


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("c++"), reason="needs a C++ compiler"
)
def test_the_cpu_library_is_there_and_opens() -> None:
    """Or else the tests of all its operators would be skipped."""
    assert native.load("cpu") is None


AVX2 = "fma avx f16c avx2"
AVX512 = f"{AVX2} avx512f avx512dq avx512bw avx512vl"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have one alone")
@pytest.mark.parametrize(
    ("flags", "asked", "sets"),
    [
        (AVX512, None, ["avx512"]),
        (AVX2, None, ["avx2"]),
        (f"{AVX2} avx512f", None, ["avx2"]),  # of AVX-512, not all that the kernels use
        ("sse2 avx", None, ["baseline"]),
        (f"{AVX512} avx512_bf16 amx_tile amx_bf16", None, ["avx512_bf16"]),
        ("sse2", "all", ["baseline", "avx2", "avx512", "avx512_bf16"]),
        (AVX512, "avx512 baseline", ["baseline", "avx512"]),
        (AVX512, "avx2,avx2", ["avx2"]),
    ],
)
def test_instruction_sets(
    flags: str,
    asked: str | None,
    sets: list[str],
    build: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of this machine, unless MOCE_CPU_ISA says otherwise."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    if asked:
        monkeypatch.setenv("MOCE_CPU_ISA", asked)
    assert build.instruction_sets(tmp_path / "cpuinfo") == sets


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have one alone")
def test_a_compiler_too_old_for_the_newest_set(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    assert build._compiles(compiler, [], "int x;") and not build._compiles(compiler, [], "int")
    monkeypatch.setattr(build, "_compiles", lambda *_: False)
    assert build.compiled_sets(compiler, ["avx512_bf16"]) == ["avx512"]
    assert build.compiled_sets(compiler, ["avx2", "avx512_bf16"]) == ["avx2"]
    assert build.compiled_sets(compiler, ["avx512"]) == ["avx512"]


@pytest.mark.parametrize("wrong", ["avx", "all avx2", "native"])
def test_unknown_instruction_sets(
    wrong: str, build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCE_CPU_ISA", wrong)
    name = wrong.split()[0]
    with pytest.raises(SystemExit, match=f"MOCE_CPU_ISA: '{name}' is none of .*, nor 'all' alo"):
        build.instruction_sets()


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py on a Mac of today, which has no /proc and does not say how much memory is free."""
    for name in ("MOCE_CPU_ISA", "MOCE_CUDA", "MAX_JOBS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    names = {name: i for name, i in os.sysconf_names.items() if name != "SC_AVPHYS_PAGES"}
    monkeypatch.setattr(os, "sysconf_names", names)
    return load_setup()


def test_on_macos(mac: ModuleType, tmp_path: Path) -> None:
    sets = mac.instruction_sets(tmp_path / "no cpuinfo")
    assert sets == ["neon"]
    assert mac.jobs() >= 1
    mac.write_cpu_ninja(tmp_path, "/usr/bin/c++", sets, tmp_path / "_moce_cpu.so")
    lines = (tmp_path / "build.ninja").read_text()
    kernels = len(list((ROOT / "csrc/cpu").glob("*_kernel.cpp")))
    assert lines.count("-DMOCE_ISA=neon -DMOCE_LANES=4") == kernels
    assert "-DMOCE_HAS_NEON" in lines and "-m" not in lines.split()
    for wanted in ("", "1"):
        with pytest.raises(mac.CannotBuildCudaError, match="built on Linux only, this is darwin"):
            mac.cuda_to_build(wanted)


# Runs setup.py as it decides on Windows.
ON_WINDOWS = """
import runpy, sys, sysconfig
import setuptools.command.build_ext
sysconfig.get_config_vars()
sys.argv, sys.platform = ["setup.py", *sys.argv[1:]], "win32"
runpy.run_path("setup.py", run_name="__main__")
"""


def test_on_windows(tmp_path: Path) -> None:
    """No kernels, and whoever asks is told."""
    arguments = ["build_ext", "--build-lib", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", ON_WINDOWS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reason = "the kernels are built on Linux and macOS only, this is win32: operators run in plain"
    assert f"installed without its CPU kernels: {reason} PyTorch" in done.stderr
    assert [file.name for file in (tmp_path / "moce_kernels").iterdir()] == ["_build.json"]
    assert reason in (tmp_path / "moce_kernels/_build.json").read_text()


def test_a_compiler_that_does_not_run(build: ModuleType, only: Path) -> None:
    """What macOS has in the place of one before its developer tools are installed."""
    script(only / "c++", "echo 'xcode-select: no developer tools were found' >&2; exit 1")
    assert build.find_compiler() is None
    script(only / "clang++", "exit 0")
    assert build.find_compiler() == str(only / "clang++")


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


NVCC = """case "$1" in
  -dryrun) echo '#$ _HERE_=/elsewhere' >&2; echo '#$ TOP={top}/bin/..' >&2 ;;
  --version) echo 'Cuda compilation tools, release 12.8, V12.8.93' ;;
  --list-gpu-arch) echo compute_80; echo compute_90 ;;
esac"""


def test_nvcc_itself_says_where_its_toolkit_is(
    build: ModuleType, only: Path, tmp_path: Path
) -> None:
    """The nvcc on the path may be a script that stands elsewhere."""
    top = tmp_path / "toolkit with space"
    (top / "bin").mkdir(parents=True)
    script(only / "nvcc", NVCC.format(top=top))
    cuda = build.find_cuda()
    assert (cuda.root, cuda.version) == (top, "12.8")
    assert cuda.archs == ("8.0", "9.0+PTX")  # of the default, those that it knows


def test_cuda_home_goes_before_the_path(
    build: ModuleType, only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(only / "nvcc", "exit 1")
    script(tmp_path / "home/bin/nvcc", NVCC.format(top="/unused"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert build.find_cuda().root == tmp_path / "home"


def test_without_a_gpu_the_cuda_library_is_left_out(
    build: ModuleType, only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is asked for: a newcomer need not wait for it."""
    script(only / "nvcc", NVCC.format(top="/unused"))
    with pytest.raises(build.CannotBuildCudaError, match=r"no NVIDIA GPU .*MOCE_CUDA=1 builds it"):
        build.cuda_to_build("")
    assert build.cuda_to_build("1").archs == ("8.0", "9.0+PTX")
    with pytest.raises(build.CannotBuildCudaError, match="MOCE_CUDA=0"):
        build.cuda_to_build("0")
    monkeypatch.setenv("MOCE_CUDA_ARCHS", "9.0")
    assert build.cuda_to_build("").archs == ("9.0",)
    monkeypatch.delenv("MOCE_CUDA_ARCHS")
    script(only / "nvidia-smi", "echo 9.0")
    assert build.cuda_to_build("").archs == ("9.0",)


def test_without_nvcc(build: ModuleType, only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(build.CannotBuildCudaError, match="no nvcc on the path"):
        build.find_cuda()
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    with pytest.raises(build.CannotBuildCudaError, match="no nvcc in CUDA_HOME, /nowhere"):
        build.find_cuda()


def test_architectures(build: ModuleType, only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.cuda_archs(KNOWN) == ("8.0", "8.6", "8.9", "9.0+PTX")
    script(only / "nvidia-smi", "echo 9.0; echo 8.6; echo 9.0")
    assert build.cuda_archs(KNOWN) == ("8.6", "9.0")
    monkeypatch.setenv("MOCE_CUDA_ARCHS", "8.0;10.0+PTX")
    assert build.cuda_archs(KNOWN) == ("8.0", "10.0+PTX")
    assert build.gencode(("8.0", "10.0+PTX")) == [
        "-gencode=arch=compute_80,code=sm_80",
        "'-gencode=arch=compute_100,code=[sm_100,compute_100]'",
    ]
    for wrong, message in (("sm_90", "'sm_90' is not like 9.0"), ("12.0", "does not know 12.0")):
        monkeypatch.setenv("MOCE_CUDA_ARCHS", wrong)
        with pytest.raises(SystemExit, match=message):
            build.cuda_archs(KNOWN)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1", "MOCE_CUDA=1, but the CUDA library cannot be built: there was no nvcc in CUDA_HOME"),
        ("yes", "MOCE_CUDA must be 0 or 1, not 'yes'"),
    ],
)
def test_moce_cuda(value: str, message: str, tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "MOCE_CUDA": value, "CUDA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and message in done.stderr


def test_no_kernel_spills_registers(build: ModuleType) -> None:
    library = native.library("cuda")
    if not library.exists():
        pytest.skip(str(native.load("cuda")))
    triton = pytest.importorskip("triton")
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = build.output_of(str(cuobjdump), "--dump-resource-usage", str(library))
    kernels = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    assert len(kernels) >= 20
    for name, _, stack, local in kernels:
        assert (int(stack), int(local)) == (0, 0), f"{name} keeps registers in memory"


@pytest.fixture(scope="module")
def oldest_headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the stable ABI in the oldest torch, and no others."""
    (wheel,) = oldest.folder().glob(f"torch-{oldest.version('torch')}.*.whl")
    folder = tmp_path_factory.mktemp("headers")
    parts = ("torch/csrc/stable/", "torch/csrc/inductor/aoti_torch/", "torch/headeronly/")
    with zipfile.ZipFile(wheel) as archive:
        names = [
            n
            for n in archive.namelist()
            if n.startswith(tuple(f"torch/include/{p}" for p in parts))
        ]
        archive.extractall(folder, names)
    return folder / "torch/include"


@pytest.mark.parametrize("library", ["cpu", "cuda"])
def test_host_code_compiles_against_the_oldest_torch(
    library: str, oldest_headers: Path, build: ModuleType
) -> None:
    """For CUDA with the stand-in for its runtime: nvcc need not be there."""
    compiler = build.find_compiler()
    assert compiler, "there is no C++ compiler"
    flags = [*build.common_flags(), *build.HOST_FLAGS, f"-isystem{oldest_headers}"]
    sources = sorted(
        p for p in (build.CSRC / "cpu").glob("*.cpp") if not p.stem.endswith("_kernel")
    )
    flags += [f"-DMOCE_HAS_{name.upper()}" for name in build.INSTRUCTION_SETS]
    if library == "cuda":
        flags += emulation.DEFINES + emulation.INCLUDES
        flags += [f"-DMOCE_SCALAR={emulation.SCALARS['bfloat16']}", "-DMOCE_SCALAR_NAME=bfloat16"]
        sources = sorted((build.CSRC / "cuda").glob("*.cu"))
    assert len(sources) >= 10
    done = subprocess.run(
        [compiler, *flags, "-fsyntax-only", "-x", "c++", *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
