"""Builds of csrc/cpu with other flags than setup.py's, for ``tests.other_libraries``."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

CSRC = Path(__file__).parents[2] / "csrc"
TORCH = Path(torch.__file__).parent


def build(
    compiler: str,
    folder: Path,
    flags: Sequence[str],
    kernel_flags: Sequence[str],
    operators: Collection[str] | None = None,
) -> None:
    """``folder/_moce_cpu.so`` with one instruction set, which passes for the baseline.

    Args:
        compiler: C++ compiler.
        flags, kernel_flags: for all sources and the linker; for the kernels.
        operators: those to build, by the names of their sources; None: all.
    """
    sources = sorted((CSRC / "cpu").glob("*.cpp"))
    kernels = {s.stem for s in sources if s.stem.endswith("_kernel")}
    if operators is not None:
        left_out = {k.removesuffix("_kernel") for k in kernels} - set(operators)
        sources = [s for s in sources if s.stem.removesuffix("_kernel") not in left_out]
    common = [
        *("-std=c++20", "-fPIC", "-fno-math-errno", f"-I{CSRC / 'include'}", *flags),
        *("-DMOCE_HAS_BASELINE", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
    ]

    def compile_source(source: Path) -> str:
        of_torch = ["-isystem", str(TORCH / "include")]
        more = ["-DMOCE_ISA=baseline", *kernel_flags] if source.stem in kernels else of_torch
        target = str(folder / f"{source.stem}.o")
        subprocess.run([compiler, *common, *more, "-c", str(source), "-o", target], check=True)
        return target

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_source, sources))
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    link = [compiler, "-shared", *flags, *objects, *libraries]
    subprocess.run([*link, "-o", str(folder / "_moce_cpu.so")], check=True)
