"""Finds and loads the compiled libraries."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent


def library(name: str) -> Path:
    return FOLDER / f"_moce_{name}.so"


@functools.cache
def load(name: str) -> str | None:
    """Open ``_moce_<name>.so`` beside this file, once. Returns why that failed, or None."""
    path = library(name)
    if not path.exists():
        return f"this build has no {name.upper()} library: {built(name)}"
    if name == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install one that is built with it"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load: {error.__cause__ or error}"
    return None


def built(name: str) -> str:
    """What setup.py noted of a library: with what it was built and for what, or why it was not."""
    report = FOLDER / "_build.json"
    if not report.exists():
        return "the package was not built; install it with pip"
    return json.loads(report.read_text()).get(name, "this version has none")


def cpu_capability() -> str:
    """The instruction set that the CPU kernels run with: AVX-512, AVX2 or baseline."""
    return torch.ops.moce_kernels.cpu_capability()


torch.library.define("moce_kernels::cpu_capability", "() -> str")
