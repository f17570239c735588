"""How often each part of a Triton kernel runs: its PTX, run for one thread on integers alone.

Loops and early exits of the kernels depend on sizes, on the number of the program and, for experts,
on the routing plan: never on what is computed. So of a program's PTX only those instructions are
run that a branch depends on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.gpu_model.machine_code import Loop, innermost

Value = int | None
"""Of a register; None: not known."""

Memory = Callable[[int, int], Value]
"""What lies at (the parameter that is a pointer, bytes from there)."""

POINTER = 48
"""A pointer is the number of its parameter from 1, shifted so far, plus the distance."""

MOST_STEPS = 200_000

STATEMENT = re.compile(r"^(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?);")
REGISTER = re.compile(r"%[a-z]+\d+")


class NotUnderstood(RuntimeError):
    """PTX whose control flow cannot be followed."""


@dataclass(frozen=True)
class Instruction:
    opcode: str
    guard: str | None
    negated: bool
    operands: tuple[str, ...]
    target: int | None = None  # of a branch

    @property
    def results(self) -> list[str]:
        """The registers that it writes: "%r1", "{ %r1, %r2 }" or "%p1|%p2"."""
        stores = self.opcode.startswith(("st.", "bra", "red."))
        return [] if stores or not self.operands else REGISTER.findall(self.operands[0])


@dataclass
class Program:
    instructions: list[Instruction]
    parameters: int
    loops: tuple[Loop, ...]
    needed: list[bool] = field(default_factory=list)
    """Whether a branch depends on the instruction."""

    def visits(
        self,
        arguments: Sequence[Value],
        block: tuple[int, int, int],
        grid: tuple[int, int, int],
        threads: int,
        memory: Memory,
    ) -> list[int]:
        """How often thread 0 of this block runs each instruction."""
        special = {
            f"%{name}.{axis}": value
            for name, values in (
                ("ctaid", block),
                ("nctaid", grid),
                ("tid", (0, 0, 0)),
                ("ntid", (threads, 1, 1)),
            )
            for axis, value in zip("xyz", values, strict=True)
        }
        registers: dict[str, Value] = {}
        counts = [0] * len(self.instructions)
        at = steps = 0
        while at < len(self.instructions):
            instruction = self.instructions[at]
            counts[at] += 1
            at += 1
            if not self.needed[at - 1]:
                continue
            steps += 1
            if steps > MOST_STEPS:
                raise NotUnderstood("a loop does not end")
            if instruction.guard is not None:
                holds = registers.get(instruction.guard)
                if holds is None and instruction.target is not None:
                    raise NotUnderstood(f"{instruction.opcode} depends on data")
                if holds is not None and bool(holds) == instruction.negated:
                    continue
            if instruction.opcode in ("ret", "exit"):
                break
            if instruction.target is not None:
                at = instruction.target
                continue
            result = _run(instruction, registers, special, arguments, memory)
            if instruction.guard is not None and registers.get(instruction.guard) is None:
                result = None
            results = instruction.results
            registers.update(dict.fromkeys(results, result if len(results) == 1 else None))
        return counts


def parse(ptx: str) -> Program:
    """The first kernel of a PTX text."""
    parameters = len(re.findall(r"^\s*\.param .*_param_\d+", ptx, flags=re.MULTILINE))
    labels: dict[str, int] = {}
    found: list[tuple[str, str | None, bool, tuple[str, ...]]] = []
    body = ptx[ptx.index("{", ptx.index(".entry")) :]
    for line in body.splitlines():
        line = line.strip()
        if label := re.match(r"(\$\w+):", line):
            labels[label[1]] = len(found)
        elif statement := STATEMENT.match(line):
            negated, guard, opcode, rest = statement.groups()
            found.append((opcode, guard, bool(negated), _operands(rest)))
    instructions = [
        Instruction(o, g, n, args, labels[args[0]] if o.startswith("bra") else None)
        for o, g, n, args in found
    ]
    ends: dict[int, int] = {}
    for i, instruction in enumerate(instructions):
        if instruction.target is not None and instruction.target <= i:
            ends[instruction.target] = max(i, ends.get(instruction.target, 0))
    loops = tuple(Loop(first, last) for first, last in sorted(ends.items()))
    program = Program(instructions, parameters, loops)
    program.needed = _needed(instructions)
    return program


def _operands(text: str) -> tuple[str, ...]:
    """Split at commas, but not those in braces or brackets."""
    return tuple(part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text))


def _needed(instructions: list[Instruction]) -> list[bool]:
    """Which ones a branch depends on, whatever the order."""
    wanted = {i.guard for i in instructions if i.target is not None and i.guard}
    needed = [i.target is not None or i.opcode in ("ret", "exit") for i in instructions]
    grown = True
    while grown:
        grown = False
        for n, i in enumerate(instructions):
            if not needed[n] and wanted.intersection(i.results):
                needed[n] = grown = True
                wanted.update(REGISTER.findall(" ".join(i.operands[1:])))
                wanted.update([i.guard] if i.guard else [])
    return needed


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _run(
    instruction: Instruction,
    registers: dict[str, Value],
    special: dict[str, int],
    arguments: Sequence[Value],
    memory: Memory,
) -> Value:
    """The result of an instruction; None where it is a float or not known."""
    parts = instruction.opcode.split(".")
    name, kind = parts[0], parts[-1]
    operands = instruction.operands[1:]

    def value(text: str) -> Value:
        if text.startswith("%"):
            return special[text] if text in special else registers.get(text)
        try:
            return int(text, 0)
        except ValueError:
            return None

    if name == "ld":
        inside = operands[0].strip("[] ")
        if "param" in parts:
            found = re.search(r"_param_(\d+)", inside)
            return arguments[int(found[1])] if found else None
        base, _, offset = inside.partition("+")
        address = value(base.strip())
        if address is None or "global" not in parts:
            return None
        address += int(offset or 0)
        return memory((address >> POINTER) - 1, address & ((1 << POINTER) - 1))
    given = [value(o) for o in operands]
    if name == "selp":
        yes, no, which = given
        return None if which is None else (yes if which else no)
    if name in ("and", "or") and kind == "pred":
        decided = 0 if name == "and" else 1
        if decided in given:
            return decided
    if any(v is None for v in given) or kind[0] == "f" or kind == "bf16" or "{" in operands[0]:
        return None
    return _integer(name, parts, [v for v in given if v is not None])


def _integer(name: str, parts: list[str], given: list[int]) -> Value:
    kind = parts[-1]
    if kind == "pred":
        a, *rest = given
        two = rest[0] if rest else 0
        results = {"and": a & two, "or": a | two, "xor": a ^ two, "not": 1 - a, "mov": a}
        return results.get(name)
    bits = int(kind[1:])
    signed = kind[0] == "s"
    a, b, c, *_ = [_signed(v, bits) if signed else v & ((1 << bits) - 1) for v in (*given, 0, 0)]
    if name == "setp":
        compare = parts[1].rstrip("u") if parts[1] not in ("lo", "ls", "hi", "hs") else parts[1]
        results = {
            "eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b,
        }  # fmt: skip
        if len(parts) > 3 or compare not in results:
            return None
        return int(results[compare])
    if name == "cvt":
        # cvt.TO.FROM: kind is what it comes from.
        return a if parts[1][0] in "us" and kind[0] in "us" else None
    if name in ("mul", "mad") and "wide" in parts:
        return a * b + (given[2] if name == "mad" else 0)
    if name in ("mul", "mad") and "hi" in parts:
        return ((a * b) >> bits) + c
    if name == "bfe":
        start, length = given[1] & 255, given[2] & 255
        return (given[0] >> start) & ((1 << length) - 1)
    if name in ("div", "rem"):
        if b == 0:
            return None
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if name == "div" else a - quotient * b
    simple: dict[str, Callable[[], int]] = {
        "mov": lambda: a,
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "mad": lambda: a * b + c,
        "min": lambda: min(a, b),
        "max": lambda: max(a, b),
        "and": lambda: a & b,
        "or": lambda: a | b,
        "xor": lambda: a ^ b,
        "not": lambda: ~a,
        "neg": lambda: -a,
        "abs": lambda: abs(a),
        "shl": lambda: a << min(b, bits),
        "shr": lambda: a >> min(given[1], bits),
    }
    return simple[name]() if name in simple else None


def runs(program: Program, visits: Sequence[float], code_loops: int) -> list[float]:
    """Of counts for each PTX instruction: how often the average instruction outside all loops
    runs, and how often each loop's.

    Raises:
        NotUnderstood: the machine code has other loops than the PTX.
    """
    if code_loops != len(program.loops):
        raise NotUnderstood(f"{len(program.loops)} loops became {code_loops}")
    places = innermost(len(visits), program.loops)
    found = []
    for part in (None, *program.loops):
        own = [n for n, place in zip(visits, places, strict=True) if place == part]
        found.append(sum(own) / max(1, len(own)))
    return found
