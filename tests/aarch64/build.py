"""Compiles csrc/cpu for 64-bit Arm into a program that needs no PyTorch there:
``python -m tests.aarch64.build PROGRAM [COMPILER...]``."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests/aarch64"
GCC = ("aarch64-linux-gnu-g++",)
CLANG = ("clang++", "--target=aarch64-linux-gnu")
EMULATOR = "qemu-aarch64"


def missing(compiler: tuple[str, ...] = GCC) -> str | None:
    """Why programs for 64-bit Arm cannot be built and run here, or None."""
    for tool in (*GCC, compiler[0], EMULATOR):  # Clang takes GCC's libraries
        if shutil.which(tool) is None:
            return f"there is no {tool}: apt-get install g++-aarch64-linux-gnu qemu-user clang"
    return None


def setup_on_arm() -> ModuleType:
    """setup.py, as it decides there."""
    spec = importlib.util.spec_from_file_location("setup_on_arm", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(platform, "machine", lambda: "aarch64"):
        spec.loader.exec_module(module)
    return module


def build(program: Path, compiler: tuple[str, ...] = GCC) -> None:
    """
    Raises:
        CalledProcessError: something does not compile.
    """
    setup = setup_on_arm()
    ((isa, flags),) = setup.INSTRUCTION_SETS.items()
    kernel = ["-fno-math-errno", f"-DMOCE_ISA={isa}", *flags]
    # What surrounds the kernels is compiled quickly and not for speed.
    host = [
        *("-O1", f"-DMOCE_HAS_{isa.upper()}"),
        *("-isystem", str(Path(torch.__file__).parent / "include")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        # PyTorch's headers are read once.
        header = Path(folder, "precompiled.h")
        header.write_text('#include "tensor.h"\n')
        precompile = [*compiler, *setup.common_flags(), *host, f"-I{ROOT / 'csrc/cpu'}"]
        precompile += ["-x", "c++-header", str(header), "-o", f"{header}.gch"]
        subprocess.run(precompile, check=True)
        host += ["-include", str(header)]

        def compile_source(source: Path) -> str:
            target = str(Path(folder, source.stem).with_suffix(".o"))
            more = kernel if source.stem.endswith("_kernel") else host
            command = [*compiler, *setup.common_flags(), *more, "-c", str(source), "-o", target]
            subprocess.run(command, check=True)
            return target

        sources = [*(ROOT / "csrc/cpu").glob("*.cpp"), *HERE.glob("*.cpp")]
        sources = [s for s in sources if s.stem != "old_glibc"]  # for libraries
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            objects = list(pool.map(compile_source, sorted(sources)))
        # Static: the emulator then needs no folder of libraries.
        subprocess.run([*compiler, "-static", *objects, "-o", str(program)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), tuple(sys.argv[2:]) or GCC)
