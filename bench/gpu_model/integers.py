"""What the integer instructions of a GPU's machine code compute (compute capability 9.0).

NVIDIA documents the names of the instructions alone. What stands here is what the compiler uses
them for; an instruction that is not known gives no value, never a wrong one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

Value = int | None
"""Of a register or a predicate; None: not known."""

WORD = (1 << 32) - 1


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


Modifiers = Sequence[str]
"""The parts of the opcode behind its name: GE, U32, AND of ISETP.GE.U32.AND."""

Operation = Callable[[Modifiers, list[int], list[int]], tuple[int, ...]]
"""Of the sources and the predicates among them: the result, then the resulting predicates. A
negated source arrives as 2**32 - x, so that carries come out right."""


def _add(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    total = sum(v) + (sum(flags) if "X" in modifiers else 0)
    bits = 64 if "64" in modifiers else 32
    return total & ((1 << bits) - 1), total >> bits >= 1, total >> bits >= 2


def _multiply(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    a, b, c = v
    if "WIDE" in modifiers or "HI" in modifiers:  # c is a pair of registers
        if "U32" not in modifiers:
            a, b = signed(a), signed(b)
        product = a * b & ((1 << 64) - 1)
        total = product + c + (sum(flags) if "X" in modifiers else 0)
        if "HI" in modifiers:
            return (total >> 32 & WORD,)
        return total & ((1 << 64) - 1), total >> 64 >= 1
    return ((a * b + c + (sum(flags) if "X" in modifiers else 0)) & WORD,)


def _shift_add(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    a, b, *rest = v
    if "HI" not in modifiers:
        total = (a << rest[0] & WORD) + b
    else:
        high = signed(a & WORD) >> 31 if "SX32" in modifiers else rest[0]
        total = ((high << 32 | a & WORD) << rest[-1] >> 32 & WORD) + b
    total += sum(flags) if "X" in modifiers else 0
    return total & WORD, total >> 32 >= 1


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}


def compare(modifiers: Modifiers, a: int, b: int, below: int | None) -> int:
    """Of two words; of the upper ones where ``below`` is what comparing the lower ones gave."""
    a, b = (v & WORD if "U32" in modifiers else signed(v) for v in (a, b))
    if below is not None and a == b:
        return below
    return int(COMPARISONS[modifiers[0]](a, b))


def _logic(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    a, b, c, table = v
    found = 0
    for i in range(8):
        if table >> i & 1:
            one = (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            found |= one & WORD
    return found, int(found != 0 or any(flags))


def _shift(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    low, by, high = v
    by = by & 31 if "W" in modifiers else min(by & WORD, 63)
    pair = (high & WORD) << 32 | low & WORD
    if "S32" in modifiers or "S64" in modifiers:
        pair = signed(pair, 64)
    pair = pair << by if "L" in modifiers else pair >> by
    return (pair >> 32 & WORD if "HI" in modifiers else pair & WORD,)


def _least_or_greatest(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    v = [x & WORD if "U32" in modifiers else signed(x) for x in v]
    return ((min(v) if flags[0] else max(v)) & WORD,)


def _add_then_limit(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    return _least_or_greatest(modifiers, [v[0] + v[1], v[2]], flags)


def _bytes(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    a, selector, b = v
    pair, found = (b & WORD) << 32 | a & WORD, 0
    for i in range(4):
        which = selector >> 4 * i & 15
        byte = pair >> 8 * (which & 7) & 255
        found |= ((255 if byte >> 7 else 0) if which & 8 else byte) << 8 * i
    return (found,)


def _extend(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    low = v[0] & ((1 << v[1]) - 1)
    return ((low if "U32" in modifiers else signed(low, v[1]) & WORD),)


def _bits_of_float(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0]


def _float_of_bits(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits & WORD))[0]


def _to_float(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    """Rounded up, for the reciprocal of a divisor."""
    x = v[0] if "U32" in modifiers or "U64" in modifiers else signed(v[0])
    bits = _bits_of_float(x)
    return (bits + (_float_of_bits(bits) < x and "RP" in modifiers),)


def _to_integer(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    x = _float_of_bits(v[0])
    return (int(x) & WORD if math.isfinite(x) else WORD,)


def _reciprocal(modifiers: Modifiers, v: list[int], flags: list[int]) -> tuple[int, ...]:
    x = _float_of_bits(v[0])
    return (_bits_of_float(1 / x if x else math.inf),)


OPERATIONS: dict[str, Operation] = {
    "IADD3": _add,
    "VIADD": _add,
    "IMAD": _multiply,
    "LEA": _shift_add,
    "LOP3": _logic,
    "SHF": _shift,
    "VIMNMX": _least_or_greatest,
    "VIMNMX3": _least_or_greatest,
    "VIADDMNMX": _add_then_limit,
    "PRMT": _bytes,
    "SGXT": _extend,
    "MOV": lambda modifiers, v, flags: (v[0] & WORD,),
    "R2UR": lambda modifiers, v, flags: (v[0] & WORD,),
    "S2R": lambda modifiers, v, flags: (v[0],),
    "S2UR": lambda modifiers, v, flags: (v[0],),
    "CS2R": lambda modifiers, v, flags: (v[0],),
    "LDC": lambda modifiers, v, flags: (v[0],),
    "IABS": lambda modifiers, v, flags: (abs(signed(v[0])),),
    "POPC": lambda modifiers, v, flags: ((v[0] & WORD).bit_count(),),
    "FLO": lambda modifiers, v, flags: ((v[0] & WORD).bit_length() - 1 & WORD,),
}

DIVISION: dict[str, Operation] = {"I2F": _to_float, "F2I": _to_integer, "MUFU": _reciprocal}
"""The floats in a division of integers."""
