"""What a measurement was made on and with, for the reports of all benchmarks."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from moce_kernels import native

_CPUINFO = Path("/proc/cpuinfo")


def environment(threads: int) -> dict[str, Any]:
    """Processor, instruction sets, threads, versions, commit, date and load, for a report's JSON.

    ``instruction_set`` is the one that the CPU kernels use, None where their library does not load;
    ``bf16_instructions`` are those of the processor.
    """
    flags = _cpuinfo("flags").split()
    return {
        "processor": _cpuinfo("model name") or platform.processor(),
        "instruction_set": native.cpu_capability() if native.load("cpu") is None else None,
        "bf16_instructions": [f for f in ("avx512_bf16", "amx_bf16") if f in flags],
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
    }


def processor(found: dict[str, Any]) -> str:
    """Processor, instruction sets and threads in words."""
    sets = f"kernels {found['instruction_set']}" if found["instruction_set"] else "no CPU library"
    has = (
        f", processor {' '.join(found['bf16_instructions'])}" if found["bf16_instructions"] else ""
    )
    threads = found["threads"]
    plural = "" if threads == 1 else "s"
    return f"{found['processor']} ({sets}{has}), {threads} thread{plural}"


def described(found: dict[str, Any]) -> str:
    """The line above a report's table."""
    return (
        f"{processor(found)}, torch {found['torch']}, Python {found['python']}; "
        f"commit {found['commit']}, {found['date']}. "
        f"Load average at the start {found['load']:.1f}."
    )


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpuinfo(name: str) -> str:
    """An entry of the first CPU; empty where there is none."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
