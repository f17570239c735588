"""How long a kernel should take, and what it waits for."""

from __future__ import annotations

import functools
import math
from collections import Counter
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
    spills: float

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
    ranks = launch.scalars.get("RANKS")
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
    spills = 0
    if launch.kind == "triton":
        code, program = code_of(launch.compiled.asm["cubin"], launch.compiled.asm["ptx"])
        counted = executed(launch, code, program)
        programs = math.prod(launch.grid)
        warps = programs * launch.compiled.metadata.num_warps
        issue = warps * counted["all"] / (gpu.multiprocessors * gpu.schedulers * gpu.clock)
        mma = warps * counted["operations"] / gpu.mma
        waves = max(1.0, programs / (gpu.multiprocessors * resident(launch, code, gpu)))
        waiting = waves * (counted["rounds"] * gpu.latency + counted["barrier"] * gpu.barrier)
        instructions, spills = 32 * warps * counted["all"], code.stack
    memory = data / (gpu.reached * gpu.memory)
    parts = issue, memory, mma, waiting
    seconds = sum(part**gpu.overlap for part in parts) ** (1 / gpu.overlap) + gpu.launch
    return Estimate(seconds, *parts, gpu.launch, data, instructions, spills)


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
    places = code.innermost()
    weight = dict(zip((None, *code.loops), runs, strict=True))
    found: Counter[str] = Counter()
    for opcode, place in zip(code.opcodes, places, strict=True):
        if opcode == "NOP":
            continue
        found["all"] += weight[place]
        found["operations"] += weight[place] * machine_code.operations(opcode)
        if kind := machine_code.kind_of(opcode):
            found[kind] += weight[place]
    own = {part: Counter() for part in (None, *code.loops)}  # type: dict[Any, Counter[str]]
    for opcode, place in zip(code.opcodes, places, strict=True):
        own[place][machine_code.kind_of(opcode) or ""] += 1
    # Loads of a loop's turn, or of what surrounds the loops, are on their way together.
    found["rounds"] = sum(weight[part] for part, kinds in own.items() if kinds["load"])
    return found


SAMPLES = 24


def average_runs(launch: Launch, loops: int, program: trips.Program) -> list[float]:
    """``trips.runs`` over some programs of the grid, and over the routes of the images."""
    signature = launch.compiled.src.signature
    names = [name for name, kind in signature.items() if kind != "constexpr"]
    arrays = {a.name: a for a in launch.arrays}
    arguments: list[int | None] = []
    for i, name in enumerate(names):
        value = launch.scalars.get(name)
        if name in arrays:
            arguments.append((i + 1) << trips.POINTER)
        else:
            arguments.append(int(value) if isinstance(value, (int, bool)) else None)
    arguments += [None] * (program.parameters - len(arguments))
    experts = len(launch.scalars.get("RANKS") or (0,))
    slots = math.prod(arrays["order"].shape) if "order" in arrays else 1
    routes = range(experts) if slots < experts else (None,)
    total = math.prod(launch.grid)
    threads = 32 * launch.compiled.metadata.num_warps
    sums: list[float] = []
    blocks = range(total) if total <= SAMPLES else [
        int((k * 0.6180339887 + 0.37) % 1 * total) for k in range(SAMPLES)
    ]  # fmt: skip
    for route in routes:

        def memory(parameter: int, distance: int, route: int | None = route) -> int | None:
            at = distance // 8
            name = names[parameter]
            if name == "order":
                return at
            if name in ("index", "expert"):
                return at * experts // slots if route is None else route
            if name == "offsets":
                return -(-at * slots // experts) if route is None else slots * (at > route)
            return None

        for block in blocks:
            x, y, _ = launch.grid
            where = block % x, block // x % y, block // (x * y)
            visits = program.visits(arguments, where, launch.grid, threads, memory)
            found = trips.runs(program, visits, loops)
            sums = found if not sums else [a + b for a, b in zip(sums, found, strict=True)]
    return [s / (len(routes) * len(blocks)) for s in sums]
