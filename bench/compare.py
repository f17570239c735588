"""This project compared with the published code, ONNX Runtime and OpenVINO, in one run.

    python bench/compare.py --published ../MoCE-IR --output bench/results/compare

Every contender has the same random weights and runs in a process of its own. For each task the
processes of all contenders live at once and take turns, one call each round, so that they see the
same machine; reported are medians. Memory is the growth of a process's resident memory during its
first call of the task's size (inputs and weights excluded). Outputs are compared with those of this
project's reference backend. Writes OUTPUT.json, OUTPUT.md and, where matplotlib is installed,
OUTPUT.png.

The published code is imported from the folder that --published names and is not part of this
project. It needs einops; where fvcore, which it imports and does not use here, is missing, a stub
takes its place. The noise that it adds to its routers in evaluation is set to 0, so that it takes
the routes that we take. A contender that cannot run a task is listed with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moceir import machine
from moceir.files import whole_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.contenders import NAMES, Task, contender

EAGER = ("ours", "published")
TASKS = {
    "inference_224": Task("moce_ir_s", 1, 224, 224),
    "inference_512": Task(
        "moce_ir_s", 1, 512, 512, contenders=("ours", "reference", "published"), rounds=5
    ),
    "full_224": Task("moce_ir", 1, 224, 224, contenders=EAGER),
    "batch_8": Task("moce_ir_s", 8, 128, 128, contenders=EAGER),
    "train_4": Task(
        "moce_ir_s", 4, 128, 128, train=True, contenders=("ours", "reference", "published")
    ),
    "train_8": Task("moce_ir_s", 8, 128, 128, train=True, contenders=EAGER, rounds=3),
    "train_32": Task("moce_ir_s", 32, 128, 128, train=True, contenders=("ours",), rounds=2),
    "compact_step": Task(
        "compact", 16, 64, 64, train=True, whole_step=True, contenders=("ours", "reference")
    ),
    "compact_train": Task(
        "compact", 8, 64, 64, train=True, contenders=("ours", "reference", "published")
    ),
    "size_128": Task("moce_ir_s", 1, 128, 128, contenders=("ours",)),
    "size_256": Task("moce_ir_s", 1, 256, 256, contenders=("ours",)),
    "size_720p": Task("moce_ir_s", 1, 720, 1280, contenders=("ours",), rounds=3),
    "size_1080p": Task("moce_ir_s", 1, 1080, 1920, contenders=("ours",), rounds=2),
    "size_4k": Task("moce_ir_s", 1, 2160, 3840, contenders=("ours",), rounds=1),
}


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
                    function(images[:, :, :64, :64])
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
        command = [sys.executable, __file__, "--worker", who, "--tasks", key]
        command += ["--threads", str(arguments.threads)]
        if arguments.published:
            command += ["--published", str(arguments.published)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        environment.pop("MOCE_KERNELS_BACKEND", None)
        if who == "reference":
            environment["MOCE_KERNELS_BACKEND"] = "reference"
        log = None if arguments.verbose else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command,
            env=environment,
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


def run(key: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One task: a row for each contender."""
    task = TASKS[key]
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


def exponent(results: dict[str, list[dict[str, Any]]]) -> float | None:
    """Of the cost of our inference as a power of the number of pixels, fitted."""
    points = []
    for key, rows in results.items():
        task = TASKS[key]
        if task.train or task.preset != "moce_ir_s" or task.batch != 1:
            continue
        for row in rows:
            if row["contender"] == "ours" and "median" in row:
                points.append((task.height * task.width, row["median"]))
    if len({pixels for pixels, _ in points}) < 3:
        return None
    pixels, seconds = np.log(np.array(points)).T
    return float(np.polyfit(pixels, seconds, 1)[0])


def markdown(report: dict[str, Any]) -> str:
    lines = [
        f"{report['processor']}, {report['threads']} threads, torch {report['torch']}, float32; "
        f"commit {report['commit']}, {report['date']}. "
        f"Load average at the start {report['load']:.1f}.",
        "",
        "| task | contender | median s | ratio to ours | peak MB | ratio to ours | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, rows in report["results"].items():
        ours = next((r for r in rows if r["contender"] == "ours" and "median" in r), None)
        for row in rows:
            name = NAMES[row["contender"]]
            if "median" not in row:
                reason = row.get("error", "not run").replace("|", "/")
                lines.append(f"| {TASKS[key].name} | {name} | {reason} | | | | |")
                continue
            times = f"{row['median'] / ours['median']:.2f}" if ours else ""
            more = f"{row['memory'] / max(1, ours['memory']):.2f}" if ours else ""
            difference = f"{row['difference']:.1e}" if "difference" in row else ""
            lines.append(
                f"| {TASKS[key].name} | {name} | {row['median']:.3f} | {times} | "
                f"{row['memory'] / 1e6:.0f} | {more} | {difference} |"
            )
    if report["exponent"] is not None:
        lines += ["", f"Cost of our inference: pixels to the power of {report['exponent']:.3f}."]
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{TASKS[key].name}\n{NAMES[row['contender']]}", row["median"])
        for key, rows in report["results"].items()
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


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="a clone of the published code")
    parser.add_argument("--output", type=Path, help="where the results go, without a suffix")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="show what the processes print")
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, TASKS[arguments.tasks[0]], arguments.published, arguments.threads)
        return
    report: dict[str, Any] = {
        "processor": processor(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "tasks": {key: asdict(TASKS[key]) for key in arguments.tasks},
        "results": {},
    }
    for key in arguments.tasks:
        report["results"][key] = run(key, arguments)
        report["exponent"] = exponent(report["results"])
        print(markdown({**report, "results": {key: report["results"][key]}, "exponent": None}))
        if arguments.output:  # after every task: a long run that is stopped keeps what it has
            for suffix, text in (
                (".json", json.dumps(report, indent=1) + "\n"),
                (".md", markdown(report)),
            ):
                with whole_file(arguments.output.with_suffix(suffix)) as temporary:
                    temporary.write_text(text)
    if arguments.output and importlib.util.find_spec("matplotlib"):
        plot(report, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
