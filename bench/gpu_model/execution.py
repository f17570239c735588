"""How often a warp runs each instruction of a kernel: its machine code, run on integers alone.

Loops and early exits of the kernels depend on sizes, on the number of the block and the thread and,
for experts, on the routing plan: never on what is computed. So only those instructions are run that
a branch depends on, for one thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bench.gpu_model.machine_code import Code, Instruction
from bench.gpu_model.steps import (
    ALWAYS,
    PLACES,
    PREDICATES,
    State,
    Thread,
    is_predicate,
    place,
    read_by,
    reader,
    step,
    written,
)

MOST_STEPS = 400_000


class NotUnderstood(RuntimeError):
    """Machine code whose control flow cannot be followed."""


def _leaves(instruction: Instruction) -> bool:
    """Whether it may go on elsewhere than at the next instruction. Threads of a warp do not part:
    BRA.DIV, for those that have, is not taken."""
    return instruction.name in ("EXIT", "BRA", "CALL", "RET") and instruction.modifiers[:1] != (
        "DIV",
    )


class Program:
    """A kernel that is ready to run."""

    def __init__(self, code: Code) -> None:
        self.instructions = code.instructions
        wanted = _wanted(code.instructions)
        self.steps = [
            step(instruction) if written(instruction) & after and not _leaves(instruction) else None
            for instruction, after in zip(code.instructions, wanted, strict=True)
        ]
        self.conditions = [
            [reader(text, False) for text in _conditions(one)] if _leaves(one) else []
            for one in code.instructions
        ]
        following = [len(code.instructions)]
        for i in reversed(range(len(code.instructions))):
            needed = self.steps[i] is not None or _leaves(code.instructions[i])
            following.append(i if needed else following[-1])
        self.following = following[::-1]
        """From each place on, the first instruction that a branch depends on."""

    def visits(self, thread: Thread) -> list[int]:
        """How often ``thread`` runs each instruction.

        Raises:
            NotUnderstood: a branch depends on what is computed, or on what is not known here.
        """
        # What is not written yet may be anything: compilers keep flags as bits of such a register.
        state: State = [0] * PLACES
        for at in ALWAYS:
            state[at] = int(at >= PREDICATES)
        # Runs of instructions, one after the other, are counted by where they begin and end.
        begins = [0] * (len(self.instructions) + 1)
        begins[0] = 1
        calls: list[int] = []
        at = self.following[0]
        for _ in range(MOST_STEPS):
            if at == len(self.instructions):
                raise NotUnderstood("the end is passed")
            run = self.steps[at]
            if run is not None:
                run(state, thread)
                at = self.following[at + 1]
                continue
            instruction = self.instructions[at]
            if not self._taken(at, state, thread):
                at = self.following[at + 1]
                continue
            begins[at + 1] -= 1
            if instruction.name == "EXIT":
                return list(itertools.accumulate(begins))[:-1]
            if instruction.name == "CALL":
                calls.append(at + 1)
            target = calls.pop() if instruction.name == "RET" else instruction.target
            if target is None:
                raise NotUnderstood(f"{instruction.opcode} {instruction.operands}")
            begins[target] += 1
            at = self.following[target]
        raise NotUnderstood("a loop does not end")

    def _taken(self, at: int, state: State, thread: Thread) -> bool:
        found = [read(state, thread) for read in self.conditions[at]]
        if 0 in found:
            return False
        if None in found:
            instruction = self.instructions[at]
            if self._skips_slow_path(at, instruction.target):
                return True
            raise NotUnderstood(f"instruction {at}, {instruction.opcode}, depends on data")
        return True

    def _skips_slow_path(self, at: int, target: int | None) -> bool:
        """Whether a branch goes around what divisions and roots do with numbers that are denormal,
        zero or infinite: others are assumed. Before that call nothing but its argument is made."""
        if target is None:
            return False
        for one in self.instructions[at + 1 : min(target, at + 8)]:
            if one.name == "CALL":
                return "slowpath" in one.operands[0]
            if _leaves(one) or one.name.startswith("ST"):
                return False
        return False


def _conditions(instruction: Instruction) -> list[str]:
    """The predicates that must all hold for a branch to be taken."""
    texts = [instruction.guard] if instruction.guard else []
    return texts + [text for text in instruction.operands if is_predicate(text)]


def _wanted(instructions: Sequence[Instruction]) -> list[int]:
    """After each instruction the places whose values a branch may depend on, as masks."""
    returns = [i + 1 for i, one in enumerate(instructions) if one.name == "CALL"]
    flows: list[tuple[tuple[int, ...], int, int, bool]] = []
    for i, one in enumerate(instructions):
        successors: list[int] = []
        if _leaves(one):
            if one.name == "RET":
                successors = list(returns)
            elif one.target is not None:
                successors = [one.target]
            if _conditions(one) or one.name == "CALL":
                successors.append(i + 1)
            uses = sum(1 << at for at in {place(text) for text in _conditions(one)})
        else:
            successors, uses = [i + 1], read_by(one)
        flows.append((tuple(successors), uses, written(one), _leaves(one)))
    before = [0] * (len(instructions) + 1)
    after = [0] * len(instructions)
    grown = True
    while grown:
        grown = False
        for i in reversed(range(len(instructions))):
            successors_, uses, writes, leaves = flows[i]
            out = 0
            for successor in successors_:
                out |= before[successor]
            after[i] = out
            now = out
            if leaves:
                now |= uses
            elif writes & out:
                # A guarded result may be what was there before.
                now = (out if instructions[i].guard else out & ~writes) | uses
            if now != before[i]:
                before[i] = now
                grown = True
    return after
