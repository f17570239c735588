"""What a network launches on a GPU and how long that should take, as a table: no GPU is needed.

    python -m bench.gpu_model "moce_ir_s 1280 x 720" bfloat16 --library \\
        --measured bench/results/h200_4_alone.jsonl

``--library`` compiles the CUDA library's kernels, which takes minutes the first time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from bench.gpu_model import library
from bench.gpu_model.estimate import GPU, Estimate, estimate
from bench.gpu_model.launch import Launch
from bench.gpu_model.trace import trace
from bench.lease.measure import TASKS
from moce_kernels.precompile import precompile
from moceir import preset
from moceir.training.precompile import network_work


class Row:
    """The launches of one kernel."""

    def __init__(self) -> None:
        self.estimates: list[Estimate] = []

    def total(self, of: Callable[[Estimate], float]) -> float:
        return sum(of(e) for e in self.estimates)

    @property
    def ms(self) -> float:
        return 1e3 * self.total(lambda e: e.seconds)

    @property
    def instructions(self) -> str:
        """In 10^9."""
        counts = [e.instructions for e in self.estimates]
        known = [count for count in counts if count is not None]
        if not any(e.registers for e in self.estimates):
            return ""
        return f"{sum(known) / 1e9:.1f}" if len(known) == len(counts) else "not counted"

    @property
    def registers(self) -> str:
        """At most, and how many bytes of a thread did not fit."""
        most, spilled = (
            max(getattr(e, n) for e in self.estimates) for n in ("registers", "spilled")
        )
        return f"{most} and {spilled} B spilled" if spilled else f"{most}" if most else ""

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        shares: dict[str, float] = {}
        for e in self.estimates:
            shares[e.bound] = shares.get(e.bound, 0) + e.seconds
        return max(shares, key=lambda bound: shares[bound])


def rows_of(launches: list[Launch], gpu: GPU) -> dict[tuple[str, str], Row]:
    """By kind and name. Equal launches are estimated once."""
    known: dict[object, Estimate] = {}
    rows: dict[tuple[str, str], Row] = {}
    for launch in launches:
        arrays = tuple((a.shape, a.strides, a.dtype) for a in launch.arrays)
        key: object = launch.name, arrays
        if kernel := launch.kernel:
            key = launch.name, arrays, launch.grid, kernel.code, kernel.parameters
        if key not in known:
            known[key] = estimate(launch, gpu)
        rows.setdefault((launch.kind, launch.name), Row()).estimates.append(known[key])
    return rows


def measured(path: Path, task: str, dtype: str) -> dict[str, tuple[int, float]]:
    """Launches and milliseconds of each kernel in what ``bench.lease`` wrote."""
    found = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "kernel" in row and row["task"] == task and row["dtype"] == dtype:
            found[library.short_name(row["kernel"])] = row["launches"], row["ms"]
    return found


def table(rows: dict[tuple[str, str], Row], found: dict[str, tuple[int, float]]) -> str:
    """Markdown: our kernels one by one, PyTorch's in sum."""
    beside = bool(found)
    lines = [
        "| kernel | launches | GB | G instructions | registers | predicted, ms | bound by |"
        + (" measured, ms | measured / predicted |" if beside else ""),
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |" + (" ---: | ---: |" if beside else ""),
    ]

    def line(name: str, row: Row, bound: str) -> str:
        text = (
            f"| {name} | {len(row.estimates)} | {row.total(lambda e: e.bytes) / 1e9:.2f} "
            f"| {row.instructions} | {row.registers} | {row.ms:.2f} "
            f"| {bound} |"
        )
        if beside:
            launches, ms = found.get(name.strip("`"), (0, 0.0))
            same = launches == len(row.estimates)
            text += f" {ms:.2f} | {ms / row.ms:.2f} |" if same else " | |"
        return text

    ours = [(name, row) for (kind, name), row in rows.items() if kind != "aten"]
    for name, row in sorted(ours, key=lambda entry: -entry[1].ms):
        lines.append(line(f"`{name}`", row, row.bound))
    together = Row()
    for (kind, _), row in rows.items():
        if kind == "aten":
            together.estimates += row.estimates
    if together.estimates:
        lines.append(line("PyTorch, bytes alone", together, together.bound))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_model", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--library", action="store_true", help="with the CUDA library's kernels")
    parser.add_argument("--measured", type=Path, help="rows of bench.lease to compare with")
    parser.add_argument("--jobs", type=int, help="processes that compile")
    arguments = parser.parse_args()
    name, batch, height, width, train = TASKS[arguments.task]
    dtype = getattr(torch, arguments.dtype)
    work = network_work(preset(name), (batch, 3, height, width), dtype, train)
    precompile(work, 90, arguments.jobs, arguments.library)
    kernels = library.Library(library.build()) if arguments.library else None
    launches = trace(work, 90, arguments.library, compiled=True, kernels=kernels)
    path = arguments.measured
    found = measured(path, arguments.task, arguments.dtype) if path else {}
    rows = rows_of(launches, GPU())
    print(table(rows, found))
    print(f"\n{len(launches)} launches, {sum(row.ms for row in rows.values()):.1f} ms")


if __name__ == "__main__":
    main()
