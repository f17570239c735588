"""One instruction of a GPU's machine code at a time: what it reads, what it writes, what it does.

Values are integers; floats are not known, nor is what was stored to memory.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.gpu_model.integers import DIVISION, OPERATIONS, WORD, Value, compare
from bench.gpu_model.machine_code import PARAMETERS, Instruction

Memory = Callable[[int, int], Value]
"""The 64-bit integer at (number of the array, bytes from there)."""

POINTER = 48
"""A pointer is the number of its array from 1, shifted so far, plus the distance."""

# Places of the state: R0 to R255 (RZ), UR0 to UR63 (URZ), P0 to P7 (PT), UP0 to UP7 (UPT).
UNIFORM, PREDICATES, UNIFORM_PREDICATES, PLACES = 256, 320, 328, 336
ALWAYS = (255, 319, PREDICATES + 7, UNIFORM_PREDICATES + 7)  # RZ, URZ, PT, UPT

REGISTER = re.compile(r"\b(U?)([RP])(\d+|Z|T)\b")


@dataclass(frozen=True)
class Thread:
    """Which one runs, and what it finds."""

    number: int
    block: tuple[int, int, int]
    threads: int
    """Of a block."""
    grid: tuple[int, int, int]
    parameters: Sequence[Value]
    """Byte by byte, as the kernel's parameters lie in memory."""
    memory: Memory

    def special(self, name: str) -> Value:
        if name.startswith("SR_CTAID"):
            return self.block["XYZ".index(name[-1])]
        return {
            "SR_TID.X": self.number, "SR_TID.Y": 0, "SR_TID.Z": 0,
            "SR_LANEID": self.number % 32, "SR_CgaCtaId": 0, "SRZ": 0,
        }.get(name)  # fmt: skip

    def constant(self, at: int, size: int) -> Value:
        sizes = struct.pack("<6I", self.threads, 1, 1, *self.grid)
        found = sizes[at : at + size] if at < PARAMETERS else self.parameters[at - PARAMETERS :]
        known = [byte for byte in found[:size] if byte is not None]
        return int.from_bytes(bytes(known), "little") if len(known) == size else None


State = list[Value]
Read = Callable[[State, Thread], Value]
Step = Callable[[State, Thread], None]


def place(text: str) -> int:
    """Of a register or a predicate such as R12, URZ or P0."""
    uniform, kind, number = REGISTER.search(text).groups()  # type: ignore[union-attr]
    if kind == "P":
        return (UNIFORM_PREDICATES if uniform else PREDICATES) + (
            7 if number == "T" else int(number)
        )
    return (UNIFORM if uniform else 0) + (
        (63 if uniform else 255) if number == "Z" else int(number)
    )


def is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P[\dT]", text) is not None


def _pair(state: State, at: int) -> Value:
    """Of two registers; RZ is followed by nothing."""
    low, high = state[at], state[at] if at in ALWAYS else state[at + 1]
    return None if low is None or high is None else high << 32 | low


def reader(text: str, wide: bool, size: int = 0) -> Read:
    """Reads a source; ``wide``: 64 bits of it; ``size``: bytes of a constant that is loaded."""
    text = text.replace(".reuse", "")
    sign, text = (text[0], text[1:]) if text[0] in "-~!" and len(text) > 1 else ("", text)
    bits = 64 if wide else 32
    if found := re.fullmatch(r"c\[0x0\]\[(?:(U?R\w+)\+?)?(0x[0-9a-f]+)?\]", text):
        base, at = place(found[1]) if found[1] else 255, int(found[2] or "0", 16)
        size = size or bits // 8

        def plain(state: State, thread: Thread) -> Value:
            from_ = state[base]
            return None if from_ is None else thread.constant(at + from_, size)
    elif re.fullmatch(r"U?[RP](\d+|Z|T)(\.64)?", text):
        at = place(text)
        if wide and at < PREDICATES:
            return _signed_read(lambda state, thread: _pair(state, at), sign, bits)

        def plain(state: State, thread: Thread) -> Value:
            return state[at]
    elif re.fullmatch(r"0x[0-9a-f]+|\d+", text):
        value = int(text, 0)

        def plain(state: State, thread: Thread) -> Value:
            return value
    else:

        def plain(state: State, thread: Thread) -> Value:
            return thread.special(text)

    return _signed_read(plain, sign, bits)


def _signed_read(plain: Read, sign: str, bits: int) -> Read:
    def read(state: State, thread: Thread) -> Value:
        value = plain(state, thread)
        if value is None:
            return None
        if sign == "-":
            return (1 << bits) - value
        return (1 << bits) - 1 - value if sign == "~" else 1 - value

    return read if sign else plain


def split(instruction: Instruction) -> tuple[list[str], list[str]]:
    """What an instruction writes, and the rest of its operands."""
    name, operands = instruction.name, list(instruction.operands)
    if not operands or name in NO_RESULT:
        return [], operands
    if name in ("ISETP", "PLOP3", "FSETP", "DSETP", "HSETP2"):
        return operands[:2], operands[2:]
    count = 1
    if name in ("VOTE", "VOTEU") and len(operands) == 2:  # whether it holds for all or any
        pass
    elif is_predicate(operands[0]) and name in ("LOP3", "SHFL", "ATOMG", "VOTE", "VOTEU"):
        count = 2
    elif name in ("IADD3", "IMAD", "LEA", "VOTE"):
        while count < len(operands) and re.fullmatch(r"U?P[\dT]", operands[count]):
            count += 1
    return operands[:count], operands[count:]


NO_RESULT = (
    "BRA", "EXIT", "RET", "CALL", "BSSY", "BSYNC", "BREAK", "BAR", "NOP", "STG", "STS", "STL", "ST",
    "STSM", "RED", "WARPSYNC", "LDGSTS", "DEPBAR", "MEMBAR", "ERRBAR", "CCTL",
)  # fmt: skip


def written(instruction: Instruction) -> int:
    """Places that an instruction may write, as a mask."""
    if instruction.name == "R2P":
        return int(instruction.operands[2], 16) << PREDICATES
    mask, results = 0, split(instruction)[0]
    for text in results:
        if REGISTER.search(text):
            width = 1 if is_predicate(text) else _width(instruction)
            mask |= ((1 << width) - 1) << place(text)
    for at in ALWAYS:
        mask &= ~(1 << at)
    return mask


def _width(instruction: Instruction) -> int:
    """Registers of the result."""
    parts = instruction.modifiers
    if "128" in parts:
        return 4
    pairs = ("WIDE", "64") if instruction.name not in ("SHF", "I2F") else ("WIDE",)
    if instruction.name == "CS2R" and "32" not in parts:
        return 2
    return 2 if any(part in parts for part in pairs) else 1


def read_by(instruction: Instruction) -> int:
    """Places that an instruction may read, as a mask; of what may be half of a pair, both."""
    mask = 0
    texts = list(split(instruction)[1])
    if instruction.guard:
        texts.append(instruction.guard)
    if instruction.name == "P2R":
        mask |= 127 << PREDICATES
    pairs = any(p in ("WIDE", "HI", "64", "U64", "S64") for p in instruction.modifiers)
    for text in texts:
        for found in REGISTER.finditer(text):
            at = place(found[0])
            mask |= 1 << at
            if found[2] == "R" and (pairs or ".64" in text):
                mask |= 1 << at + 1
    for at in ALWAYS:
        mask &= ~(1 << at)
    return mask


def step(instruction: Instruction) -> Step:
    """Runs an instruction that is no branch."""
    results, sources = split(instruction)
    places = [place(text) for text in results if REGISTER.search(text)]
    if instruction.name == "R2P":
        places = [PREDICATES + i for i in range(7) if int(instruction.operands[2], 16) >> i & 1]
    compute = _computation(instruction, sources)
    guard = reader(instruction.guard, False) if instruction.guard else None
    width = _width(instruction) if results and not is_predicate(results[0]) else 1
    if width > 1:
        first = places[0]
        places[1:1] = [first if first in ALWAYS else first + i for i in range(1, width)]

    def run(state: State, thread: Thread) -> None:
        holds = guard(state, thread) if guard else 1
        if holds == 0:
            return
        found: Sequence[Value] = () if holds is None else compute(state, thread)
        if width == 2 and found and found[0] is not None:
            found = (found[0] & WORD, found[0] >> 32, *found[1:])
        for at, value in itertools.zip_longest(places, found[: len(places)]):
            if at not in ALWAYS:
                state[at] = value

    return run


def _computation(
    instruction: Instruction, sources: list[str]
) -> Callable[[State, Thread], Sequence[Value]]:
    """The results in the order of their places; those that are missing are not known."""
    name, modifiers = instruction.name, instruction.modifiers
    flags = [reader(text, False) for text in sources if is_predicate(text)]
    values = [text for text in sources if not is_predicate(text)]
    if name == "ISETP":
        return _comparison(instruction, [reader(v, False) for v in values], flags)
    if name == "PLOP3":
        return _predicate_logic(flags, [int(v, 16) for v in values])
    if name == "SEL":
        yes, no = (reader(v, False) for v in values)

        def select(state: State, thread: Thread) -> Sequence[Value]:
            which = flags[0](state, thread)
            return () if which is None else ((yes if which else no)(state, thread),)

        return select
    if name == "LDG" and len(values) == 1:
        return _load(values[0], 2 if "64" in modifiers else 1)
    if name == "HFMA2" and values[:2] == ["-RZ", "RZ"]:  # a constant
        halves = struct.pack("<2e", *(float(v.replace("Q", "")) for v in reversed(values[2:])))
        constant = int.from_bytes(halves, "little")
        return lambda state, thread: (constant,)
    if name == "SHFL" and "IDX" in modifiers and values[1] == "RZ":
        own = reader(values[0], False)  # of the first lane, as if it were this one's
        return lambda state, thread: (1, own(state, thread))
    if name in ("VOTE", "VOTEU") and len(instruction.operands) == 2:
        return lambda state, thread: (flags[0](state, thread),)  # as it does for this thread
    if name in ("P2R", "R2P"):
        return _predicates(name, values[-2:])
    operation = OPERATIONS.get(name) or DIVISION.get(name)
    if operation is None or (name == "MUFU" and "RCP" not in modifiers):
        return lambda state, thread: ()
    every = "64" in modifiers and name != "SHF"
    last = "WIDE" in modifiers or ("HI" in modifiers and name == "IMAD")
    size = _constant_size(modifiers) if name == "LDC" else 0
    reads = [
        reader(v, every or (last and i == len(values) - 1), size) for i, v in enumerate(values)
    ]
    predicate_first = is_predicate(split(instruction)[0][0])

    def compute(state: State, thread: Thread) -> Sequence[Value]:
        v = [read(state, thread) for read in reads]
        f = [read(state, thread) for read in flags]
        if None in v or None in f:
            return ()
        found = operation(modifiers, v, f)  # type: ignore[arg-type]
        return found[::-1] if predicate_first else found

    return compute


def _constant_size(modifiers: Sequence[str]) -> int:
    sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8}
    return next((sizes[part] for part in modifiers if part in sizes), 4)


def _comparison(
    instruction: Instruction, values: list[Read], flags: list[Read]
) -> Callable[[State, Thread], Sequence[Value]]:
    modifiers = instruction.modifiers
    both = "AND" in modifiers

    def run(state: State, thread: Thread) -> Sequence[Value]:
        other = flags[0](state, thread)
        if other is not None and bool(other) != both:  # false and ..., true or ...
            return other, other
        a, b = (read(state, thread) for read in values)
        below = flags[1](state, thread) if "EX" in modifiers else None
        if a is None or b is None or other is None or ("EX" in modifiers and below is None):
            return ()
        found = compare(modifiers, a, b, below)
        return found, 1 - found

    return run


def _predicate_logic(
    flags: list[Read], tables: list[int]
) -> Callable[[State, Thread], Sequence[Value]]:
    def run(state: State, thread: Thread) -> Sequence[Value]:
        given = [read(state, thread) for read in flags]
        found = []
        for table in tables:
            cases = itertools.product(*((0, 1) if g is None else (g,) for g in given))
            outcomes = {table >> (4 * a + 2 * b + c) & 1 for a, b, c in cases}
            found.append(outcomes.pop() if len(outcomes) == 1 else None)
        return found

    return run


def _predicates(name: str, values: list[str]) -> Callable[[State, Thread], Sequence[Value]]:
    """To a register, or from one: those of a mask."""
    mask = int(values[1], 16)

    def to(state: State, thread: Thread) -> Sequence[Value]:
        rest = source(state, thread)
        bits = [(state[PREDICATES + i], i) for i in range(7) if mask >> i & 1]
        if rest is None or any(bit is None for bit, _ in bits):
            return ()
        return ((rest & ~mask) | sum((bit or 0) << i for bit, i in bits),)

    def from_(state: State, thread: Thread) -> Sequence[Value]:
        value = source(state, thread)
        if value is None:
            return ()
        return [value >> shift >> i & 1 for i in range(7) if mask >> i & 1]

    text, _, byte = values[0].replace(".reuse", "").partition(".B")
    shift = 8 * int(byte or 0)
    source = reader(text, False)
    return to if name == "P2R" and not byte else from_ if name == "R2P" else lambda *_: ()


def _load(address: str, words: int) -> Callable[[State, Thread], Sequence[Value]]:
    """From global memory: of the integers that the routing plan consists of."""
    inside = address.rpartition("[")[2].rstrip("]")
    found = re.fullmatch(r"(R\d+)\.64(?:\+(-?0x[0-9a-f]+))?", inside)
    if found is None:
        return lambda state, thread: ()
    at, offset = place(found[1]), int(found[2] or "0", 16)

    def run(state: State, thread: Thread) -> Sequence[Value]:
        pointer = _pair(state, at)
        if pointer is None:
            return ()
        pointer += offset
        distance = pointer & ((1 << POINTER) - 1)
        value = thread.memory((pointer >> POINTER) - 1, distance & ~7)
        if value is None:
            return ()
        value = value >> (8 * (distance & 4)) & ((1 << 64) - 1)
        return (value if words == 2 else value & WORD,)

    return run
