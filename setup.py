"""Builds the compiled kernels of moce_kernels: plain shared libraries on the LibTorch stable ABI.

``_moce_cpu.so`` holds the C++ kernels for CPUs. It depends neither on the Python nor on the torch
version it is built with (torch >= 2.11 at run time). Without a C++ compiler the package installs
without it, and ``python -m moce_kernels.info`` says so.

Environment: ``CXX`` (compiler), ``CXXFLAGS`` (added flags), ``MAX_JOBS`` (parallel compilations).
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
# The oldest torch the libraries must open in: 2.11, as the headers spell it.
TORCH_TARGET_VERSION = "0x020b000000000000"
GIB_PER_JOB = 1.5  # memory one compilation may take

# Kernels (csrc/cpu/*_kernel.cpp) are compiled once for each instruction set.
INSTRUCTION_SETS: dict[str, list[str]] = {"baseline": ["-DMOCE_LANES=4"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS["avx2"] = ["-DMOCE_LANES=8", "-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = [
        "-DMOCE_LANES=16",
        *("-mavx2", "-mfma", "-mf16c"),
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    ]


def find_compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


def jobs() -> int:
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(pages / GIB_PER_JOB)))


def in_ninja(path: str | Path) -> str:
    """A path as a build line of ninja takes it; the shell sees it quoted."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def write_ninja(folder: Path, compiler: str, output: Path) -> Path:
    """A build.ninja that makes ``output`` from csrc/cpu."""
    import torch

    torch_root = Path(torch.__file__).parent
    flags = [
        *("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-g0"),
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        f"-I{shlex.quote(str(CSRC / 'include'))}",
        os.environ.get("CXXFLAGS", ""),
    ]
    # Kernels know nothing of PyTorch: its inline functions must not be compiled for AVX-512.
    torch_flags = [f"-isystem {shlex.quote(str(torch_root / 'include'))}"]
    lines = [
        f"cxx = {shlex.quote(compiler)}",
        f"flags = {' '.join(flags)}",
        "rule compile",
        "  command = $cxx -MMD -MF $out.d $flags $more -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $cxx -shared $in -o $out -L{shlex.quote(str(torch_root / 'lib'))} "
        f"-ltorch -ltorch_cpu -lc10 {os.environ.get('LDFLAGS', '')}",
    ]
    objects = []

    def compile_step(source: Path, name: str, more: list[str]) -> None:
        objects.append(f"{name}.o")
        lines.extend([f"build {name}.o: compile {in_ninja(source)}", f"  more = {' '.join(more)}"])

    for source in sorted((CSRC / "cpu").glob("*.cpp")):
        if source.stem.endswith("_kernel"):
            for isa, isa_flags in INSTRUCTION_SETS.items():
                compile_step(source, f"{source.stem}_{isa}", [f"-DMOCE_ISA={isa}", *isa_flags])
        else:
            compile_step(source, source.stem, torch_flags)
    lines.append(f"build {in_ninja(output)}: link {' '.join(objects)}")
    path = folder / "build.ninja"
    path.write_text("\n".join(lines) + "\n")
    return path


class BuildLibraries(build_ext):
    """Builds the library with ninja, or leaves it out and notes why."""

    def run(self) -> None:
        compiler = find_compiler()
        if not sys.platform.startswith("linux"):
            reason = f"the kernels are built on Linux only, this is {sys.platform}"
        elif compiler is None:
            reason = "there was no C++ compiler (CXX, c++, g++ or clang++) at installation"
        else:
            reason = None
        if reason:
            self.warn(f"moce_kernels is installed without its compiled CPU kernels: {reason}")
            self.extensions = []
        self.compiler_path = compiler
        super().run()
        report = json.dumps({"cpu": reason or "built"}) + "\n"
        package = ROOT / "moce_kernels" if self.inplace else Path(self.build_lib) / "moce_kernels"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(report)

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write_ninja(folder, self.compiler_path, output)
        command = [sys.executable, "-m", "ninja", "-C", str(folder), "-j", str(jobs())]
        subprocess.run(command, check=True)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"  # no Python version in the name


class Wheel(bdist_wheel):
    """One wheel for every Python: the libraries do not use its ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("moce_kernels._moce_cpu", sources=[])],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
)
