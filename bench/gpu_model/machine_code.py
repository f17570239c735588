"""What is in a kernel's machine code: registers, spills, instructions, loops."""

from __future__ import annotations

import functools
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
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


# Where a kernel's parameters begin in the bank of constants, for compute capability 9.0.
PARAMETERS = 0x210


@dataclass(frozen=True)
class Instruction:
    opcode: str
    """With its modifiers: ISETP.GE.U32.AND."""
    guard: str | None = None
    """The predicate that it depends on, such as P0 or !UP1."""
    operands: tuple[str, ...] = ()
    target: int | None = None
    """Of a branch or a call: the number of the instruction."""

    @functools.cached_property
    def name(self) -> str:
        """Without modifiers, and without the U of those that compute once for the whole warp."""
        return self.opcode.partition(".")[0].removeprefix("U")

    @functools.cached_property
    def modifiers(self) -> tuple[str, ...]:
        return tuple(self.opcode.split(".")[1:])


@dataclass(frozen=True)
class Loop:
    """From its first instruction to its backward branch, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, eq=False)
class Code:
    """Of a kernel."""

    registers: int
    stack: int
    """Bytes of local memory of a thread: numbers that did not fit into registers."""
    shared: int
    """Bytes of static shared memory, with what the system takes for itself."""
    parameters: tuple[tuple[int, int], ...]
    """Where each begins, and its bytes."""
    instructions: tuple[Instruction, ...]

    def constants(self) -> set[int] | None:
        """Where in the parameters something is read; None if that is computed."""
        operands = [o for one in self.instructions for o in one.operands]
        if any(re.search(r"c\[0x0\]\[U?R\d", operand) for operand in operands):
            return None
        found = (re.search(r"c\[0x0\]\[(0x[0-9a-f]+)\]", operand) for operand in operands)
        return {int(one[1], 16) - PARAMETERS for one in found if one}


def loops(instructions: Sequence[Instruction], visits: Sequence[float]) -> list[Loop]:
    """Backward branches that are ever taken or passed, by ``visits``: the compiler also puts what
    warps do whose threads have parted behind the end, with branches back."""
    ends: dict[int, int] = {}
    for i, instruction in enumerate(instructions):
        target = instruction.target
        if instruction.name == "BRA" and target is not None and target < i and visits[i]:
            ends[target] = max(i, ends.get(target, 0))
    return [Loop(first, last) for first, last in sorted(ends.items())]


def innermost(count: int, loops: Sequence[Loop]) -> list[Loop | None]:
    """For each instruction the innermost loop around it."""
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
        (code,) = read_all(Path(file.name)).values()
    return code


def read_all(cubin: Path) -> dict[str, Code]:
    """Of the kernels in a cubin, by their mangled names."""
    usage = _run("cuobjdump", "--dump-resource-usage", cubin)
    listing = _run("nvdisasm", "-c", cubin)
    sections = re.split(r"^\s*\.section\s+\.text\.([\w$]+),.*$", listing, flags=re.MULTILINE)
    listings = dict(zip(sections[1::2], sections[2::2], strict=True))
    found = {}
    for name, numbers in re.findall(r"Function (\S+):\n(.*)", usage):
        registers, stack, shared = (
            int(re.search(rf"{what}:(\d+)", numbers)[1])  # type: ignore[index]
            for what in ("REG", "STACK", "SHARED")
        )
        found[name] = Code(
            registers, stack, shared, parameters_of(cubin.read_bytes(), name), parse(listings[name])
        )
    return found


def parameters_of(elf: bytes, name: str) -> tuple[tuple[int, int], ...]:
    """Of a kernel, from its section .nv.info, which is a list of attributes."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, of_names = struct.unpack_from("<3H", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + size * i) for i in range(count)]
    names = headers[of_names][4]
    wanted = f".nv.info.{name}\0".encode()
    (header,) = (one for one in headers if elf.startswith(wanted, names + one[0]))
    found, at = {}, header[4]
    while at < header[4] + header[5]:
        form, attribute, value = struct.unpack_from("<BBH", elf, at)
        at += 4
        if form == 4:  # value is the size of what follows
            if attribute == 0x17:
                _, ordinal, offset, flags = struct.unpack_from("<IHHI", elf, at)
                found[ordinal] = offset, flags >> 18
            at += value
    return tuple(found[i] for i in range(len(found)))


LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


def parse(listing: str) -> tuple[Instruction, ...]:
    """The instructions of nvdisasm's listing of one kernel."""
    labels: dict[str, int] = {}
    lines: list[tuple[str | None, str, str]] = []
    for line in listing.splitlines():
        if label := re.match(r"\s*([.$\w]+):", line):
            labels[label[1]] = len(lines)
        elif found := LINE.search(line):
            guard, opcode, operands = found.groups()
            lines.append((guard, opcode, operands))
    instructions = []
    for guard, opcode, text in lines:
        operands = tuple(o.strip() for o in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text))
        label = re.search(r"`\(([^)]+)\)", text) if opcode.startswith(("BRA", "CALL")) else None
        target = labels[label[1]] if label else None
        instructions.append(Instruction(opcode, guard, operands, target))
    return tuple(instructions)
