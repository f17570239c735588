"""How long a kernel should take, and what it waits for."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.gpu_model import machine_code
from bench.gpu_model.execution import NotUnderstood, Program
from bench.gpu_model.launch import Array, Kernel, Launch
from bench.gpu_model.steps import Memory, Thread


@dataclass(frozen=True)
class GPU:
    """An H200 (sm_90). Rates are those of its data sheet unless they say otherwise."""

    multiprocessors: int = 132
    clock: float = 1.75e9
    """Hz, under load."""
    schedulers: int = 4
    """Of a multiprocessor; each issues an instruction of a warp in a cycle."""
    registers: int = 65536
    shared: int = 227 * 1024
    warps: int = 64
    memory: float = 4.2e12
    """Bytes a second, measured by a copy of 1 GB."""
    mma: float = 782e12
    """Operations a second in bf16, measured; TF32 takes twice as long."""
    # Fitted to Triton's kernels of bench/results/h200_3_products_windows.jsonl in bf16.
    launch: float = 1.5e-6
    """Seconds that an empty kernel takes."""
    latency: float = 5.8e-7
    """Seconds until what was asked of memory is there."""
    barrier: float = 1.2e-7
    """Seconds that a barrier, and what is exchanged before it, holds a program up."""
    reached: float = 0.87
    """Share of the copy's bandwidth."""
    overlap: float = 1.4
    """1: what bounds a kernel adds up; infinity: all but the greatest hides behind it."""


@dataclass(frozen=True)
class Estimate:
    """Of one launch; seconds but for the counts."""

    seconds: float
    issue: float
    """If every scheduler issued an instruction in every cycle."""
    memory: float
    mma: float
    waiting: float
    """For memory and barriers, one program after another on each multiprocessor."""
    launch: float
    bytes: float
    instructions: float | None
    """Of all threads; None if they depend on data, or are PyTorch's."""
    registers: int
    spilled: int
    """Bytes of a thread."""

    @property
    def bound(self) -> str:
        """What takes longest."""
        names = ("issue", "memory", "mma", "waiting", "launch")
        return max(names, key=lambda name: getattr(self, name))


program_of = functools.cache(Program)


def moved(launch: Launch) -> float:
    """Bytes: every array once. Of experts, whose arrays have room for the widest, a mean share."""
    storages: dict[tuple[int, tuple[int, ...]], Array] = {
        (a.storage, a.shape): a for a in launch.arrays
    }
    ranks = launch.scalars.get("RANKS") or launch.scalars.get("ranks")
    total = 0.0
    for array in storages.values():
        share = 1.0
        if ranks and len(array.shape) == 4 and array.shape[1] in (max(ranks), 2 * max(ranks)):
            share = sum(ranks) / len(ranks) / max(ranks)
        total += share * array.bytes
    return total


def estimate(launch: Launch, gpu: GPU) -> Estimate:
    """Of a launch that was traced with ``compiled``."""
    data = moved(launch)
    issue = mma = waiting = 0.0
    instructions: float | None = None
    registers = spilled = 0
    if kernel := launch.kernel:
        registers, spilled = kernel.code.registers, kernel.code.stack
        blocks = math.prod(launch.grid)
        warps = blocks * kernel.threads / 32
        counted = executed(launch, kernel)
        if counted is not None:
            issue = warps * counted["all"] / (gpu.multiprocessors * gpu.schedulers * gpu.clock)
            mma = warps * counted["operations"] / gpu.mma
            waves = max(1.0, blocks / (gpu.multiprocessors * resident(kernel, gpu)))
            waiting = waves * (counted["rounds"] * gpu.latency + counted["barrier"] * gpu.barrier)
            instructions = 32 * warps * counted["all"]
    memory = data / (gpu.reached * gpu.memory)
    parts = issue, memory, mma, waiting
    seconds = sum(part**gpu.overlap for part in parts) ** (1 / gpu.overlap) + gpu.launch
    return Estimate(seconds, *parts, gpu.launch, data, instructions, registers, spilled)


def resident(kernel: Kernel, gpu: GPU) -> int:
    """Blocks that a multiprocessor has at a time."""
    of_a_thread = -(-kernel.code.registers // 8) * 8
    assert kernel.shared <= gpu.shared, f"{kernel.shared} bytes of shared memory cannot be launched"
    return min(
        gpu.registers // (kernel.threads * of_a_thread),
        gpu.shared // max(1024, kernel.shared),
        32 * gpu.warps // kernel.threads,
        32,
    )


def executed(launch: Launch, kernel: Kernel) -> Counter[str] | None:
    """Instructions that the average warp runs: ``all``, and by kind; ``rounds``, how often it must
    wait for memory; ``operations``, those of the matrix units. None if that depends on data."""
    instructions = kernel.code.instructions
    try:
        visits = average_visits(launch, kernel)
    except NotUnderstood:
        return None
    loops = machine_code.loops(instructions, visits)
    found: Counter[str] = Counter()
    # Loads of a loop's turn, or of what surrounds the loops, are on their way together.
    waits: dict[machine_code.Loop | None, float] = {}
    places = machine_code.innermost(len(instructions), loops)
    for instruction, place, count in zip(instructions, places, visits, strict=True):
        opcode = instruction.opcode
        if opcode == "NOP":
            continue
        found["all"] += count
        found["operations"] += count * machine_code.operations(opcode)
        if kind := machine_code.kind_of(opcode):
            found[kind] += count
        if kind == "load":
            waits[place] = max(count, waits.get(place, 0.0))
    found["rounds"] = sum(waits.values())
    return found


SAMPLES = 24
"""Warps of a launch that are looked at, for each expert that it serves."""


def average_visits(launch: Launch, kernel: Kernel) -> list[float]:
    """How often the average warp runs each instruction: some warps of the grid, and the routes of
    the images, as many to each expert, or, of fewer images than experts, each expert in turn."""
    program = program_of(kernel.code)
    arrays = {a.name: a for a in launch.arrays}
    names = [a.name for a in launch.arrays]
    ranks = launch.scalars.get("RANKS") or launch.scalars.get("ranks")
    experts = len(ranks or (0,))
    slots = math.prod(arrays["order"].shape) if "order" in arrays else 1
    routes: Sequence[int | None] = range(experts) if slots < experts else (None,)
    # Where images take different ways, so do blocks.
    count = SAMPLES * (experts if routes == (None,) else 1)
    samples = list(_samples(launch.grid, kernel.threads // 32, count))
    sums = [0.0] * len(kernel.code.instructions)
    for route in routes:
        memory = _plan(names, experts, slots, route)
        for block, warp in samples:
            lanes = []
            # An instruction is issued if any thread of the warp runs it.
            for lane in (0, 31):
                thread = Thread(
                    32 * warp + lane, block, kernel.threads, launch.grid, kernel.parameters, memory
                )
                lanes.append(program.visits(thread))
            sums = [total + max(pair) for total, *pair in zip(sums, *lanes, strict=True)]
    return [total / (len(routes) * len(samples)) for total in sums]


def _samples(
    grid: tuple[int, int, int], warps: int, count: int
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Blocks and warps: all, or ``count`` of them, spread without a period (golden section)."""
    x, y, _ = grid
    total = math.prod(grid) * warps
    for k in range(min(total, count)):
        number = k if total <= count else int((k * 0.6180339887 + 0.37) % 1 * total)
        at, warp = divmod(number, warps)
        yield (at % x, at // x % y, at // (x * y)), warp


def _plan(names: list[str], experts: int, slots: int, route: int | None) -> Memory:
    """The routing plan, as kernels read it; ``route``: the expert of all images."""

    def memory(number: int, distance: int) -> int | None:
        at, name = distance // 8, names[number] if 0 <= number < len(names) else ""
        if name == "order":
            return at
        if name == "index":
            return at * experts // slots if route is None else route
        if name == "offsets":
            return -(-at * slots // experts) if route is None else slots * (at > route)
        return None

    return memory
