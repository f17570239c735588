"""Finds and loads the compiled libraries."""

from __future__ import annotations

import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parent


def library(name: str) -> Path:
    return FOLDER / f"_moce_{name}.so"


def load(name: str) -> str | None:
    """Open ``_moce_<name>.so`` in this folder, once. Returns why it cannot be used, or None.

    A library that exists but does not open, for example because memory or file descriptors ran
    out, is tried again by the next call. A CPU library for another processor, as in a copied
    environment, also causes a RuntimeWarning: what then runs by default is several times slower.
    """
    try:
        return _load(name)
    except OSError as error:
        return f"{library(name).name} does not load: {error.__cause__ or error}"


@functools.cache
def _load(name: str) -> str | None:
    path = library(name)
    if not path.exists():
        return f"this build has no {name.upper()} library: {built(name)}"
    if name == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install one with CUDA support"
    torch.ops.load_library(path)
    if name == "cpu" and not cpu_capability():
        reason = _wrong_processor()
        warnings.warn(f"moce_kernels runs without its CPU kernels: {reason}", RuntimeWarning, 3)
        return reason
    return None


def _wrong_processor() -> str:
    limit = os.environ.get("ATEN_CPU_CAPABILITY")
    lacking = "does not have" if limit is None else f"or ATEN_CPU_CAPABILITY={limit} does not allow"
    return (
        f"the CPU library is compiled for {', '.join(cpu_instruction_sets())}, which this "
        f"processor {lacking}; install the package on this machine, or build it with "
        "MOCE_CPU_ISA=all"
    )


def built(name: str) -> str:
    """What setup.py recorded: with what and for what a library was built, or why it was not."""
    if not (FOLDER / "_build.json").exists():
        return "the package was not built; install it with pip"
    return _report().get(name, "this version has none")


def _report() -> dict[str, Any]:
    return json.loads((FOLDER / "_build.json").read_text())


@functools.cache
def why_not_on_gpu(index: int | None) -> str | None:
    """Why the CUDA library has no code for this GPU, or None if it has.

    Machine code runs on later GPUs of the same generation, PTX on all later ones.
    """
    gpu = torch.cuda.get_device_capability(index)
    archs = _report()["cuda_archs"]
    for arch in archs:
        major, minor = map(int, arch.removesuffix("+PTX").split("."))
        if (major == gpu[0] and minor <= gpu[1]) or (
            arch.endswith("PTX") and (major, minor) <= gpu
        ):
            return None
    here = f"{gpu[0]}.{gpu[1]}"
    return (
        f"the CUDA library is built for {', '.join(archs)} and this GPU is {here}; "
        f"install it with MOCE_CUDA_ARCHS={here}"
    )


def cpu_instruction_sets() -> list[str]:
    """Those in the CPU library: some of baseline, avx2, avx512 and avx512_bf16, or neon."""
    return _report()["cpu_isa"]


def cpu_capability() -> str:
    """The instruction set that the CPU kernels use: the best one that this processor supports.

    ``avx512_bf16`` multiplies bfloat16 in hardware, ``avx512_bf16 and amx`` by tiles. The
    environment's ATEN_CPU_CAPABILITY (``default``, ``avx2``, ``avx512``), which governs PyTorch's
    own kernels too, lowers it. Empty if none is left. The CPU library must be loaded.
    """
    return torch.ops.moce_kernels.cpu_capability()


torch.library.define("moce_kernels::cpu_capability", "() -> str")
