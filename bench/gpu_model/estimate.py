"""How long a kernel should take, and what it waits for."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.gpu_model import machine_code, trips
from bench.gpu_model.trace import Array, Launch


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
    instructions: float
    """Of all threads."""
    registers: int
    spilled: int
    """Bytes of a thread."""

    @property
    def bound(self) -> str:
        """What takes longest."""
        names = ("issue", "memory", "mma", "waiting", "launch")
        return max(names, key=lambda name: getattr(self, name))


@functools.cache
def code_of(cubin: bytes, ptx: str) -> tuple[machine_code.Code, trips.Program]:
    return machine_code.read(cubin), trips.parse(ptx)


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
    issue = mma = waiting = instructions = 0.0
    registers = spilled = 0
    if launch.kind == "triton":
        code, program = code_of(launch.compiled.asm["cubin"], launch.compiled.asm["ptx"])
        counted = executed(launch, code, program)
        programs = math.prod(launch.grid)
        warps = programs * launch.compiled.metadata.num_warps
        issue = warps * counted["all"] / (gpu.multiprocessors * gpu.schedulers * gpu.clock)
        mma = warps * counted["operations"] / gpu.mma
        waves = max(1.0, programs / (gpu.multiprocessors * resident(launch, code, gpu)))
        waiting = waves * (counted["rounds"] * gpu.latency + counted["barrier"] * gpu.barrier)
        instructions = 32 * warps * counted["all"]
        registers, spilled = code.registers, code.stack
    memory = data / (gpu.reached * gpu.memory)
    parts = issue, memory, mma, waiting
    seconds = sum(part**gpu.overlap for part in parts) ** (1 / gpu.overlap) + gpu.launch
    return Estimate(seconds, *parts, gpu.launch, data, instructions, registers, spilled)


def resident(launch: Launch, code: machine_code.Code, gpu: GPU) -> int:
    """Programs that a multiprocessor has at a time."""
    metadata = launch.compiled.metadata
    of_a_thread = -(-code.registers // 8) * 8
    return min(
        gpu.registers // (32 * metadata.num_warps * of_a_thread),
        gpu.shared // (metadata.shared + 1024),
        gpu.warps // metadata.num_warps,
        32,
    )


def executed(launch: Launch, code: machine_code.Code, program: trips.Program) -> Counter[str]:
    """Instructions that a warp of the average program runs: ``all``, and by kind; ``rounds``, how
    often it must wait for memory; ``operations``, those of the matrix units."""
    runs = average_runs(launch, len(code.loops), program)
    weight = dict(zip((None, *code.loops), runs, strict=True))
    found: Counter[str] = Counter()
    # Loads of a loop's turn, or of what surrounds the loops, are on their way together.
    waits = set()
    for opcode, place in zip(code.opcodes, code.innermost(), strict=True):
        if opcode == "NOP":
            continue
        found["all"] += weight[place]
        found["operations"] += weight[place] * machine_code.operations(opcode)
        if kind := machine_code.kind_of(opcode):
            found[kind] += weight[place]
        if kind == "load":
            waits.add(place)
    found["rounds"] = sum(weight[place] for place in waits)
    return found


SAMPLES = 24
"""Programs of a grid that are looked at."""


def average_runs(launch: Launch, loops: int, program: trips.Program) -> list[float]:
    """``trips.runs`` over some programs of the grid, and over the routes of the images: as many to
    each expert, or, of fewer images than experts, each expert in turn."""
    arrays = {a.name: a for a in launch.arrays}
    experts = len(launch.scalars.get("RANKS") or (0,))
    slots = math.prod(arrays["order"].shape) if "order" in arrays else 1
    names, arguments = _arguments(launch, program)
    threads = 32 * launch.compiled.metadata.num_warps
    sums: list[float] = []
    routes: Sequence[int | None] = range(experts) if slots < experts else (None,)
    blocks = list(_blocks(launch.grid))
    for route in routes:
        memory = _plan(names, experts, slots, route)
        for block in blocks:
            visits = program.visits(arguments, block, launch.grid, threads, memory)
            found = trips.runs(program, visits, loops)
            sums = found if not sums else [a + b for a, b in zip(sums, found, strict=True)]
    return [s / (len(routes) * len(blocks)) for s in sums]


def _arguments(launch: Launch, program: trips.Program) -> tuple[list[str], list[int | None]]:
    """Names and values of the parameters of the PTX: Triton has made constants of some arguments,
    and adds two pointers of its own."""
    signature = launch.compiled.src.signature
    names = [name for name, kind in signature.items() if kind != "constexpr"]
    pointers = {a.name for a in launch.arrays}
    values: list[int | None] = [None] * program.parameters
    for i, name in enumerate(names):
        value = launch.scalars.get(name)
        if name in pointers:
            values[i] = (i + 1) << trips.POINTER
        elif isinstance(value, int):
            values[i] = int(value)
    return names, values


def _blocks(grid: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """All programs, or ``SAMPLES`` of them, spread without a period (golden section)."""
    x, y, _ = grid
    total = math.prod(grid)
    for k in range(min(total, SAMPLES)):
        at = k if total <= SAMPLES else int((k * 0.6180339887 + 0.37) % 1 * total)
        yield at % x, at // x % y, at // (x * y)


def _plan(names: list[str], experts: int, slots: int, route: int | None) -> trips.Memory:
    """The routing plan, as kernels read it; ``route``: the expert of all images."""

    def memory(parameter: int, distance: int) -> int | None:
        at, name = distance // 8, names[parameter]
        if name == "order":
            return at
        if name == "index":
            return at * experts // slots if route is None else route
        if name == "offsets":
            return -(-at * slots // experts) if route is None else slots * (at > route)
        return None

    return memory
