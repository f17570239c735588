"""The network's blocks and experts by their channels: C++ for CPUs beside plain PyTorch.

    python -m bench.operators --output bench/results/operators

GDFN, MDTA, keys and values of the cross attention, and a layer of experts, as the network has them
at C channels, each in float32 and in bf16 (activations; weights and their gradients stay float32).
For each operator, C and direction these four contenders take turns, one call each round; reported
are medians. Freed memory stays with the process, as in a training run. Writes OUTPUT.json and
OUTPUT.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.environment import described, environment
from bench.microbenchmark import DIRECTIONS, directed, of_dtype
from moceir.config import WINDOWS
from moceir.files import whole_file
from moceir.machine import kept_memory
from tests.ops.samples import (
    gated_feedforward,
    grouped_experts,
    projected_depthwise_conv,
    transposed_attention,
)
from tests.ops.spec import Sample

Shape = tuple[int, int, int, int]

CHANNELS = (16, 32, 48, 128)
CONTENDERS = {
    f"{backend}_{name}": (backend, dtype)
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
    for backend in ("cpu", "reference")
}


def _experts(shape: Shape) -> Sample:
    """The images take four experts in turn."""
    channels = shape[1]
    ranks = tuple(channels // n for n in (8, 4, 2, 1))
    routes = [[image % len(ranks)] for image in range(shape[0])]
    return grouped_experts.sample(shape, "channels_last", ranks, WINDOWS, routes)


OPERATORS: dict[str, Callable[[Shape], Sample]] = {
    "gated_feedforward": lambda shape: gated_feedforward.sample(
        shape, "channels_last", 2 * shape[1], "norm"
    ),
    "transposed_attention": lambda shape: transposed_attention.sample(
        shape, "channels_last", max(1, shape[1] // 32), shape[1], shape[1], "norm", "shortcut"
    ),
    "projected_depthwise_conv": lambda shape: projected_depthwise_conv.sample(
        shape, "channels_last", 2 * shape[1], 7, "norm"
    ),
    "grouped_experts": _experts,
}
"""Samples with the norms, heads, hidden channels and ranks of the network."""


def measure(sample: Sample, direction: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender's calls."""
    calls = {}
    for who, (backend, dtype) in CONTENDERS.items():
        tensors = {name: t.detach() for name, t in of_dtype(sample, dtype).items()}
        calls[who] = directed(functools.partial(sample.call, backend), direction, tensors)
    seconds: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(rounds + 1):  # the first does not count
        for who, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[who].append(time.perf_counter() - start)
    return {who: times[1:] for who, times in seconds.items()}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| operator | C | direction | float32: C++, ms | plain PyTorch | ratio "
        "| bf16: C++, ms | plain PyTorch | ratio | C++: bf16 / float32 |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        m = {who: 1e3 * seconds for who, seconds in row["medians"].items()}
        cells = [f"`{row['operator']}`", str(row["channels"]), row["direction"].replace("_", ", ")]
        for name in ("float32", "bf16"):
            ours, plain = m[f"cpu_{name}"], m[f"reference_{name}"]
            cells += [f"{ours:.2f}", f"{plain:.2f}", f"{plain / ours:.2f}"]
        cells.append(f"{m['cpu_bf16'] / m['cpu_float32']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="where the results go, without a suffix")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--channels", nargs="+", type=int, default=CHANNELS, help="C, 8 or more")
    parser.add_argument("--images", type=int, default=8, help="of a batch")
    parser.add_argument("--side", type=int, default=64, help="of an image, pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images, side = arguments.images, arguments.side
    report: dict[str, Any] = {**environment(arguments.threads), "images": images, "side": side}
    rows: list[dict[str, Any]] = []
    for operator in arguments.operators:
        for channels in arguments.channels:
            torch.manual_seed(0)
            sample = OPERATORS[operator]((images, channels, side, side))
            for direction in DIRECTIONS:
                with kept_memory():
                    seconds = measure(sample, direction, arguments.rounds)
                row = {"operator": operator, "channels": channels, "direction": direction}
                row |= {"medians": {w: statistics.median(times) for w, times in seconds.items()}}
                rows.append({**row, "seconds": seconds})
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = f"{described(report)} {images} x C x {side} x {side}.\n\n{table(rows)}"
    print(text)
    if arguments.output:
        for suffix, written in (
            (".json", json.dumps({**report, "rows": rows}, indent=1) + "\n"),
            (".md", text),
        ):
            with whole_file(arguments.output.with_suffix(suffix)) as temporary:
                temporary.write_text(written)


if __name__ == "__main__":
    main()
