"""What is in a kernel's machine code: registers, spills, instructions, loops."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# How an opcode begins, and what it is counted as.
KINDS = {
    "HGMMA": "mma",
    "HMMA": "mma",
    "IMMA": "mma",
    "LDGSTS": "load",
    "LDG": "load",
    "STG": "store",
    "LDSM": "shared",
    "LDS": "shared",
    "STS": "shared",
    "STSM": "shared",
    "LDL": "spill",
    "STL": "spill",
    "BAR": "barrier",
    "SHFL": "shuffle",
    "MUFU": "special",
    "FFMA": "ffma",
}


@dataclass(frozen=True)
class Loop:
    """From its first instruction to its backward branch, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Code:
    registers: int
    stack: int
    """Bytes of local memory of a thread: numbers that did not fit into registers."""
    opcodes: tuple[str, ...]
    loops: tuple[Loop, ...]
    """In the order of their first instructions."""

    def innermost(self) -> list[Loop | None]:
        """For each instruction the innermost loop around it."""
        return innermost(len(self.opcodes), self.loops)


def innermost(count: int, loops: tuple[Loop, ...]) -> list[Loop | None]:
    found: list[Loop | None] = [None] * count
    for loop in sorted(loops, key=lambda loop: -loop.size):
        found[loop.first : loop.last + 1] = [loop] * loop.size
    return found


def kind_of(opcode: str) -> str | None:
    return next((kind for start, kind in KINDS.items() if opcode.startswith(start)), None)


def operations(opcode: str) -> float:
    """Of a matrix instruction, for one warp, as if in bf16: TF32 is half as fast."""
    if found := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", opcode):  # four warps together
        count = 2 * int(found[1]) * int(found[2]) * int(found[3]) / 4
    elif found := re.match(r"HMMA\.(16)(8)(\d+)", opcode):
        count = 2.0 * int(found[1]) * int(found[2]) * int(found[3])
    else:
        return 0
    return 2 * count if "TF32" in opcode else count


def tool(name: str) -> Path:
    """A program of the CUDA toolkit that comes with Triton."""
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "bin" / name


def _run(name: str, *arguments: str | Path) -> str:
    command = [tool(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def read(cubin: bytes) -> Code:
    """Of a kernel alone in its cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        listing = _run("nvdisasm", "-c", file.name)
    registers, stack = (
        int(re.search(rf"{what}:(\d+)", usage)[1])  # type: ignore[index]
        for what in ("REG", "STACK")
    )
    opcodes, loops = parse(listing)
    return Code(registers, stack, opcodes, loops)


def parse(listing: str) -> tuple[tuple[str, ...], tuple[Loop, ...]]:
    """Opcodes and loops of nvdisasm's listing."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L\S+):", line):
            labels[label[1]] = len(opcodes)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            target = re.search(r"`\((\.L\S+)\)", found[2])
            if found[1].startswith("BRA") and target:
                branches.append((len(opcodes), target[1]))
            opcodes.append(found[1])
    ends: dict[int, int] = {}
    for at, label_ in branches:
        first = labels.get(label_, at + 1)
        if first < at:  # a branch to itself is padding
            ends[first] = max(at, ends.get(first, 0))
    return tuple(opcodes), tuple(Loop(first, last) for first, last in sorted(ends.items()))
