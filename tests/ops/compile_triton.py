"""Compile what the Triton kernels launch for a GPU that need not be there.

``python tests/ops/compile_triton.py 90`` compiles every kernel in each way that it can be launched,
``... 90 once`` each of these ways in one dtype, and ``... 90 all`` in all, and also what the
networks launch. It prints Triton's version, then one JSON object
for each operator or network and each kernel that it launches: the kernel's use of registers, stack
and memory as cuobjdump has it, and the bytes of shared memory that it is launched with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import triton.backends.nvidia
from triton.runtime.jit import JITFunction

from moce_kernels.absent_gpu import Launch, absent_gpu
from moceir.config import PRESETS
from moceir.training.precompile import network_work
from tests.ops.samples import SPECS
from tests.ops.spec import DTYPES
from tests.ops.test_all_ops import run

CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"


def usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = (
        word.split(":") for line in text.splitlines() if "REG:" in line for word in line.split()
    )
    return {name: int(value) for name, value in words if name in ("REG", "STACK", "LOCAL")}


def run_samples(
    which: str, capability: int, launch: Launch, launches_of: Callable[[str], None]
) -> None:
    """Forward and backward, in float32 and bfloat16 or float16 by turns; ``once``: in one of the
    three by turns; ``all``: in every dtype. Sizes of 1 in float32."""
    for spec in SPECS:
        launches_of(spec.name)
        for number, sample in enumerate(spec.launched()):
            by_turns = {"once": (DTYPES[number % 3],), "all": DTYPES}
            dtypes = by_turns.get(which, (DTYPES[0], DTYPES[1 + number % 2]))
            one_pixel = next(iter(sample.tensors.values())).shape[-1] == 1
            for dtype in DTYPES[:1] if one_pixel else dtypes:
                with absent_gpu(capability, launch, library=False):
                    run(sample, "triton", dtype)


def run_networks(capability: int, launch: Launch, launches_of: Callable[[str], None]) -> None:
    """Each preset trained on patches in both precisions that training has, and in float16 restoring
    a picture of a width that few powers of two divide."""
    patches, ragged = (2, 3, 128, 128), (1, 3, 128, 72)
    for name, config in PRESETS.items():
        launches_of(name)
        for shape, dtype, train in (
            (patches, torch.float32, True),
            (patches, torch.bfloat16, True),
            (ragged, torch.float16, False),
        ):
            work = network_work(config, shape, dtype, train)
            with absent_gpu(capability, launch, library=False):
                work()


def main(capability: int, which: str) -> None:
    torch.manual_seed(0)
    print(triton.__version__)
    launch, seen, launches_of = JITFunction.run, set(), ""

    def compile_only(kernel: JITFunction, grid: Any, args: Any, kwargs: Any) -> None:
        compiled = launch(kernel, *args, grid=grid, warmup=True, **kwargs)
        if (launches_of, compiled.hash) not in seen:
            seen.add((launches_of, compiled.hash))
            found = {"operator": launches_of, "kernel": kernel.__name__}
            found |= {**usage(compiled.asm["cubin"]), "SHARED": compiled.metadata.shared}
            print(json.dumps(found), flush=True)

    def now(name: str) -> None:
        nonlocal launches_of
        launches_of = name

    run_samples(which, capability, compile_only, now)
    if which == "all":
        run_networks(capability, compile_only, now)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:] or [""])
