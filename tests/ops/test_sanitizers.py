"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moce_kernels import registry
from tests.ops import cpu_library

ROOT = Path(__file__).parents[2]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


# Every sample of every operator, forward and backward, for the sanitizers alone: others look at the
# numbers. Tensors are no larger than they must be, so that the first element beyond is seen.
PROGRAM = """
import torch
import tests.other_libraries
from tests.ops.samples import SPECS
from tests.ops.spec import DTYPES

for spec in SPECS:
    for sample in spec.samples():
        for dtype in DTYPES:
            leaves = {
                name: (t if name in sample.master else t.to(dtype)).detach().requires_grad_()
                for name, t in sample.tensors.items()
            }
            out = sample.call("cpu", **leaves)
            torch.autograd.grad(out, list(leaves.values()), torch.randn_like(out))
    print(spec.name, flush=True)
"""


EMULATED = ["-DMOCE_LANES=16", "-DMOCE_EMULATED", "-DMOCE_HAS_AMX", "-Wno-psabi"]


def lanes() -> list[str]:
    """AVX2 where this machine has it."""
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX2" in capability or "AVX512" in capability:
        return ["-DMOCE_LANES=8", "-mavx2", "-mfma", "-mf16c"]
    return ["-DMOCE_LANES=4"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [lanes(), EMULATED], ids=["compiled", "emulated"])
def test_table_of_operators(flags: list[str], tmp_path: Path) -> None:
    """As compiled for this machine, and with emulated instructions for bfloat16."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    if not all(map(os.path.isabs, runtimes)):
        pytest.skip("g++ has no sanitizers here")
    sanitized = ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZE, *flags]
    cpu_library.build(compiler, tmp_path, sanitized, [])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={
            **os.environ,
            "MOCE_TEST_LIBRARIES": str(tmp_path),
            "LD_PRELOAD": " ".join(runtimes),
            # Python and PyTorch leave memory to the end of the process.
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert done.stdout.split() == list(registry.names())
