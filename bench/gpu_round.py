"""Everything that only a machine with an NVIDIA GPU can show, in one command and nine minutes.

    python -m bench.gpu_round [--published FOLDER]

Builds, runs the tests of the kernels on the GPU, looks for host synchronisation, replays a CUDA
graph of the whole network, runs compute-sanitizer where there is one, and measures. Writes
bench/results/gpu_<date>.json and .md, and the microbenchmarks' JSON, table and roofline beside
them. Each step has a limit of its own, to which the time that the steps before it left is added;
one that fails is recorded and the rest still run. The exit status is 1 if one failed.

--dry-run does what can be done of it on a CPU, with small inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.compare import commit
from moceir.files import whole_file

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    name: str
    commands: Sequence[Sequence[str]]  # run side by side
    limit: float  # seconds; those of all steps are less than nine minutes
    environment: dict[str, str] = field(default_factory=dict)
    # Why it cannot run here; it is recorded and left out.
    skip: str | None = None


def steps(out: Path, stem: str, dry: bool, published: str | None) -> list[Step]:
    python = sys.executable
    pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    device = "cpu" if dry else "cuda"
    table = "tests/ops/test_all_ops.py"
    # The compilers of the kernels are what takes time, so that many run at once.
    kinds = (
        "float32",
        "bfloat16",
        "float16 and not bfloat16",
        "not float32 and not bfloat16 and not float16",
    )

    def tests(backend: str) -> list[Sequence[str]]:
        if dry:
            return [(*pytest, table, "-k", "routing_plan-cpu and float32")]
        return [(*pytest, table, "-k", f"{backend} and {kind}") for kind in kinds]

    sanitizer = shutil.which("compute-sanitizer")
    benchmarks = out / f"{stem}_benchmarks.json"
    few = ["--quick", "--threads", "1"] if dry else ["--dtypes", "float32,bfloat16"]
    # torch.compile takes its time: for the forward pass alone.
    some = "not (compiled and backward)"
    if dry:
        some = "routing_plan or (fft_attention and 8-forward and not compiled)"
    return [
        Step(
            "build",
            [(python, "setup.py", "build_ext", "--inplace")],
            150,
            {"MOCE_CUDA": "1"},
            "a dry run uses what is built" if dry else None,
        ),
        Step("info", [(python, "-m", "moce_kernels.info")], 15),
        Step("tests of triton on the device", tests("triton"), 100),
        Step("tests of cuda on the device", tests("cuda"), 45),
        Step(
            "no host synchronisation",
            [(python, "-m", "bench.gpu_checks", "sync", "--device", device)],
            25,
        ),
        Step(
            "CUDA graph equal to eager",
            [(python, "-m", "bench.gpu_checks", "graph", "--device", device)],
            25,
        ),
        Step(
            "microbenchmarks",
            [
                (
                    *(*pytest, "bench", "--device", device, f"--benchmark-json={benchmarks}"),
                    *("--benchmark-max-time=0.3", "--benchmark-warmup=off", "-k", some, *few),
                    *(["--published", published] if published else []),
                )
            ],
            130,
        ),
        Step(
            "report",
            [
                (
                    *(python, "-m", "bench.report", str(benchmarks)),
                    *("--table", str(out / f"{stem}_benchmarks.md")),
                    *("--plot", str(out / f"{stem}_roofline.png")),
                )
            ],
            15,
        ),
        Step(
            "compute-sanitizer",
            [
                (
                    *(sanitizer or "compute-sanitizer", "--error-exitcode", "9"),
                    *(*pytest, table, "-k", "compiles_whole and aot_eager and cuda"),
                )
            ],
            25,
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            "there is no compute-sanitizer" if sanitizer is None or dry else None,
        ),
    ]


def portable(text: str) -> str:
    """Without this machine's places, for results are kept in the repository."""
    return text.replace(sys.executable, "python").replace(f"{ROOT}{os.sep}", "")


def run(step: Step, limit: float) -> dict[str, Any]:
    """The step's outcome: passed, failed, timed out or skipped, and the end of what it printed."""
    commands = [portable(" ".join(command)) for command in step.commands]
    record: dict[str, Any] = {"step": step.name, "commands": commands}
    if step.skip:
        return {**record, "outcome": "skipped", "reason": step.skip}
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        logs, processes = [], []
        for command in step.commands:
            log = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            logs.append(log)
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **step.environment},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        try:
            for process in processes:
                process.wait(max(0.0, start + limit - time.monotonic()))
            outcome = "failed" if any(process.returncode for process in processes) else "passed"
        except subprocess.TimeoutExpired:
            outcome = "timed out"
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # what the step started, too
                    process.wait()
        record["exit_status"] = [process.returncode for process in processes]
        outputs = []
        for log in logs:
            log.seek(0)
            outputs.append(portable(log.read())[-6000:])
    seconds = round(time.monotonic() - start, 1)
    return {**record, "outcome": outcome, "seconds": seconds, "outputs": outputs}


def machine(dry: bool) -> dict[str, Any]:
    def output_of(*command: str) -> str:
        if shutil.which(command[0]) is None:
            return ""
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {
        "device": platform.machine() if dry else torch.cuda.get_device_name(),
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "nvcc": output_of("nvcc", "--version").rpartition("release ")[2].partition(",")[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "dry_run": dry,
    }


def markdown(report: dict[str, Any]) -> str:
    lines = ["# A round on a GPU" + (", tried without one" if report["dry_run"] else ""), ""]
    lines += [f"- {name}: {report[name]}" for name in ("device", "driver", "torch", "cuda", "nvcc")]
    lines += [f"- commit {report['commit']}, {report['date']}", ""]
    lines += ["| step | outcome | seconds |", "| --- | --- | ---: |"]
    for step in report["steps"]:
        reason = f" ({step['reason']})" if "reason" in step else ""
        lines.append(f"| {step['step']} | {step['outcome']}{reason} | {step.get('seconds', '')} |")
    for step in report["steps"]:
        if any(step.get("outputs", ())):
            lines += ["", f"## {step['step']}"]
            for command, output in zip(step["commands"], step["outputs"], strict=True):
                end = "\n".join(output.splitlines()[-30:])
                lines += ["", f"    {command}", "", "```", end, "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    parser.add_argument("--published", metavar="FOLDER", help="a clone of the published code")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, what can be done of it")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        raise SystemExit("there is no NVIDIA GPU that this torch can use; --dry-run tries the rest")
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out.resolve()
    report: dict[str, Any] = {**machine(arguments.dry_run), "steps": []}
    stem = f"{'dry' if arguments.dry_run else 'gpu'}_{report['date'][:10]}"
    end = time.monotonic()
    for step in steps(out, stem, arguments.dry_run, arguments.published):
        end += step.limit
        outcome = run(step, end - time.monotonic())
        report["steps"].append(outcome)
        print(f"{outcome['step']}: {outcome['outcome']}", flush=True)
        # After every step, so that a round that is broken off leaves what it found.
        for suffix, text in (
            (".json", json.dumps(report, indent=2) + "\n"),
            (".md", markdown(report)),
        ):
            with whole_file(out / f"{stem}{suffix}") as temporary:
                temporary.write_text(text)
    bad = [s["step"] for s in report["steps"] if s["outcome"] in ("failed", "timed out")]
    if bad:
        raise SystemExit(f"not passed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
