"""This project compared with the published code, ONNX Runtime and OpenVINO, in one run.

    python -m bench.compare --published ../MoCE-IR --output bench/results/compare

Every contender has the same random weights and runs in a process of its own. For each task the
processes of all contenders live at once and take turns, one call each round, so that they see the
same machine; reported are medians. Memory is the growth of a process's resident memory during its
first call of the task's size (inputs and weights excluded). Writes OUTPUT.json, OUTPUT.md and,
where matplotlib is installed, OUTPUT.png.

Contenders are in float32 unless they are named bf16: these run under ``torch.autocast``, as
``Restorer(precision="bfloat16")`` and ``moceir train`` run a network. Outputs are compared with
those of this project's reference backend in float32, also those in bf16. What they then differ by
is mostly bf16's rounding: plain PyTorch in bf16 shows how much of it is to be expected.

The published code is imported from the folder that --published names and is not part of this
project. It needs einops; where fvcore, which it imports and does not use here, is missing, a stub
takes its place. The noise that it adds to its routers in evaluation is set to 0, so that it takes
the routes that we take. A contender that cannot run a task is listed with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contenders import NAMES, Task, contender
from bench.environment import described, environment
from moce_kernels import native
from moceir import machine
from moceir.files import whole_file
from moceir.machine import kept_memory

EAGER = ("ours", "published")
OWN = ("ours", "ours_bf16", "reference", "reference_bf16")
TASKS = {
    "inference_224": Task("moce_ir_s", 1, 224, 224),
    "inference_512": Task(
        "moce_ir_s", 1, 512, 512, contenders=(*OWN, "published", "published_bf16"), rounds=5
    ),
    "compact_512": Task("compact", 1, 512, 512, contenders=OWN, rounds=5),
    "full_224": Task("moce_ir", 1, 224, 224, contenders=EAGER),
    "batch_8": Task("moce_ir_s", 8, 128, 128, contenders=EAGER),
    "train_4": Task(
        "moce_ir_s",
        4,
        128,
        128,
        "gradients",
        contenders=("ours", "ours_bf16", "reference", "published", "published_bf16"),
    ),
    "train_8": Task("moce_ir_s", 8, 128, 128, "gradients", contenders=EAGER, rounds=3),
    "train_32": Task("moce_ir_s", 32, 128, 128, "gradients", contenders=("ours",), rounds=2),
    # The published code has no network with the experts' own path, as this one has.
    "compact_step": Task(
        "compact", 16, 64, 64, "step", contenders=("ours", "ours_bf16", "reference")
    ),
    "compact_train": Task("compact", 8, 64, 64, "gradients", contenders=("ours", "reference")),
    "size_128": Task("moce_ir_s", 1, 128, 128, contenders=("ours",)),
    "size_256": Task("moce_ir_s", 1, 256, 256, contenders=("ours",)),
    "size_720p": Task("moce_ir_s", 1, 720, 1280, contenders=("ours",), rounds=3),
    "size_1080p": Task("moce_ir_s", 1, 1080, 1920, contenders=("ours",), rounds=2),
    "size_4k": Task("moce_ir_s", 1, 2160, 3840, contenders=("ours",), rounds=1),
}
NOTES = """\
- "Forward, loss, backward" has no clipping, optimiser or averaging. A "step of moceir train" has
  all of them, with Muon. Neither includes degrading the patches.
- bf16 is `torch.autocast` with float32 weights; everything else is float32.
- "Difference" is the largest from the output of the reference backend in float32, relative to that
  output's maximum. In rows of bf16 it is mostly bf16's rounding: compare it with that of plain
  PyTorch in bf16 (the reference backend or the published code).
"""


def chosen(keys: list[str], quick: bool) -> dict[str, Task]:
    """Those of the keys, small ones if ``quick``."""
    small = {"batch": 2, "height": 64, "width": 64} if quick else {}
    return {key: replace(TASKS[key], **small) for key in keys}


def resident() -> int:
    return machine._fields(machine._OWN_STATUS)["VmRSS"]


def work(who: str, task: Task, published: Path | None, threads: int) -> None:
    """Answers every line on standard input with one of JSON: a call, its seconds."""
    # What is printed on the way must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    images = torch.rand(task.batch, 3, task.height, task.width)
    function: Callable[[Tensor], Tensor | None] | None = None
    for line in sys.stdin:
        reply: dict[str, Any] = {}
        try:
            if function is None:
                function = contender(who, task, published)
                if not who.endswith("compiled") and who not in ("onnxruntime", "openvino"):
                    # What any first call allocates for itself is not the picture's.
                    function(images[:1, :, :64, :64])
                before, peak = resident(), machine.Peak(torch.device("cpu"))
                start = time.perf_counter()
                restored = function(images)
                reply["seconds"] = time.perf_counter() - start
                reply["memory"] = (peak.bytes() or 0) - before
                if restored is not None and line.strip():
                    np.save(line.strip(), restored.clamp(0, 1).numpy())  # as exports do
            else:
                start = time.perf_counter()
                function(images)
                reply["seconds"] = time.perf_counter() - start
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        print(json.dumps(reply), file=answers, flush=True)


# --- all contenders in turns ---------------------------------------------------------------------


class Worker:
    """A contender's process."""

    def __init__(self, who: str, key: str, arguments: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "bench.compare", "--worker", who, "--tasks", key]
        command += ["--threads", str(arguments.threads)]
        command += ["--quick"] if arguments.quick else []
        if arguments.published:
            command += ["--published", str(arguments.published)]
        variables = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        variables.pop("MOCE_KERNELS_BACKEND", None)
        if who.startswith("reference"):
            variables["MOCE_KERNELS_BACKEND"] = "reference"
        log = None if arguments.verbose else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def call(self, output: str = "") -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(output + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return {"error": f"its process ended with {self.process.wait()} (memory?)"}

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def run(key: str, task: Task, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One task: a row for each contender."""
    taking_part = [who for who in task.contenders if who in arguments.contenders]
    rows: dict[str, dict[str, Any]] = {}
    workers = {who: Worker(who, key, arguments) for who in taking_part}
    with tempfile.TemporaryDirectory() as folder:
        outputs = {}
        for who, worker in workers.items():
            path = Path(folder) / f"{who}.npy"
            first = worker.call(str(path))
            rows[who] = {"contender": who, "seconds": []}
            if "error" in first:
                rows[who]["error"] = first["error"]
                continue
            rows[who]["first_seconds"] = first["seconds"]
            rows[who]["memory"] = first["memory"]
            if path.exists():
                outputs[who] = np.load(path)
        for who, restored in outputs.items():
            if "reference" in outputs:
                exact = outputs["reference"]
                rows[who]["difference"] = float(abs(restored - exact).max() / abs(exact).max())
    for _ in range(min(task.rounds, arguments.rounds)):
        for who, worker in workers.items():
            if "error" not in rows[who]:
                rows[who]["seconds"].append(worker.call()["seconds"])
    for who, worker in workers.items():
        worker.close()
        if rows[who]["seconds"]:
            rows[who]["median"] = statistics.median(rows[who]["seconds"])
    return list(rows.values())


def exponent(tasks: dict[str, Task], results: dict[str, list[dict[str, Any]]]) -> float | None:
    """Of the cost of our inference as a power of the number of pixels, fitted."""
    points = []
    for key, rows in results.items():
        task = tasks[key]
        if task.kind != "inference" or task.preset != "moce_ir_s" or task.batch != 1:
            continue
        for row in rows:
            if row["contender"] == "ours" and "median" in row:
                points.append((task.height * task.width, row["median"]))
    if len({pixels for pixels, _ in points}) < 3:
        return None
    pixels, seconds = np.log(np.array(points)).T
    return float(np.polyfit(pixels, seconds, 1)[0])


def table(tasks: dict[str, Task], results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| task | contender | median s | ratio to ours | peak MB | ratio to ours | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, rows in results.items():
        ours = next((r for r in rows if r["contender"] == "ours" and "median" in r), None)
        for row in rows:
            name = NAMES[row["contender"]]
            if "median" not in row:
                reason = row.get("error", "not run").replace("|", "/")
                lines.append(f"| {tasks[key].name} | {name} | {reason} | | | | |")
                continue
            times = f"{row['median'] / ours['median']:.2f}" if ours else ""
            more = f"{row['memory'] / max(1, ours['memory']):.2f}" if ours else ""
            difference = f"{row['difference']:.1e}" if "difference" in row else ""
            lines.append(
                f"| {tasks[key].name} | {name} | {row['median']:.3f} | {times} | "
                f"{row['memory'] / 1e6:.0f} | {more} | {difference} |"
            )
    return "\n".join(lines) + "\n"


def markdown(tasks: dict[str, Task], report: dict[str, Any]) -> str:
    text = f"{described(report)}\n\n{table(tasks, report['results'])}\n{NOTES}"
    if report["exponent"] is not None:
        text += f"\nCost of our inference: pixels to the power of {report['exponent']:.3f}.\n"
    return text


def plot(tasks: dict[str, Task], results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{tasks[key].name}\n{NAMES[row['contender']]}", row["median"])
        for key, rows in results.items()
        if len(rows) > 1
        for row in rows
        if "median" in row
    ]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(bars)))
    labels, seconds = zip(*bars, strict=True) if bars else ((), ())
    axes.barh(range(len(bars)), seconds)
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median")
    figure.tight_layout()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="a clone of the published code")
    parser.add_argument("--output", type=Path, help="where the results go, without a suffix")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small images, to see that all runs")
    parser.add_argument("--verbose", action="store_true", help="show what the processes print")
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tasks = chosen(arguments.tasks, arguments.quick)
    if arguments.worker:
        (task,) = tasks.values()
        with kept_memory() if task.kind == "step" else nullcontext():  # as moceir train has it
            work(arguments.worker, task, arguments.published, arguments.threads)
        return
    problem = native.load("cpu")
    if problem:  # this project would run on its reference backend
        raise SystemExit(f"there are no CPU kernels to compare: {problem}")
    report: dict[str, Any] = {
        **environment(arguments.threads),
        "tasks": {key: asdict(task) for key, task in tasks.items()},
        "results": {},
    }
    for key, task in tasks.items():
        report["results"][key] = run(key, task, arguments)
        report["exponent"] = exponent(tasks, report["results"])
        print(table(tasks, {key: report["results"][key]}), flush=True)
        if arguments.output:  # after every task: a long run that is stopped keeps what it has
            for suffix, text in (
                (".json", json.dumps(report, indent=1) + "\n"),
                (".md", markdown(tasks, report)),
            ):
                with whole_file(arguments.output.with_suffix(suffix)) as temporary:
                    temporary.write_text(text)
    if arguments.output and importlib.util.find_spec("matplotlib"):
        plot(tasks, report["results"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
