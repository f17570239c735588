"""Every check and measurement that needs an NVIDIA GPU, in one command and five minutes.

    python -m bench.lease OUT [--published FOLDER] [--only STEP ...] [--dry-run]

A GPU is often available for minutes only. Therefore every step is a process with its own time
limit, steps that do not need the card to themselves run in parallel, and every result is appended
to OUT/lease.jsonl at once, so that an interrupted lease keeps what it found. OUT/lease.md, a short
table, is written at the end; ``python -m bench.lease OUT --table`` rewrites it. Compiling the
published code with ``torch.compile`` takes minutes: it runs alongside the checks, pauses while
something is measured, and continues afterwards.

First it checks correctness: every operator's values and gradients against float64 on every backend,
the network against its reference, no synchronisation with the device, a CUDA graph and a compiled
training step equal to the eager ones, the bundled specialists against those on a CPU. Then it
measures, one after another: the card's peak rates, operators, the layer of experts, the whole
network and its training step against the published code (a clone of which ``--published`` names; it
needs einops), and each kernel of one call. With all operators, the step ``counters`` (Nsight
Compute) has run into its time limit; ``--only counters --operators A,B`` took 26 s for two.

``--train MINUTES --pictures FOLDER`` then trains a slice, from the state in ``--state`` if there is
one, and writes OUT/state. Operators that failed a check run in plain PyTorch.

Nothing is built: install first (``MOCE_CUDA=1 pip install .``), or bring the libraries along. The
exit status is 1 if a check or a step failed. ``--dry-run`` does everything on a CPU, with small
inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# What the published code is compiled for.
COMPILED = (
    ("moce_ir_s 1280 x 720", "float32"),
    ("moce_ir_s 1280 x 720", "bfloat16"),
    ("moce_ir_s step of 32 x 128 x 128", "float32"),
)
# Tests of what the table of operators does not reach by itself.
TESTS = (
    "tests/ops/test_fused_feedforward.py",
    "tests/ops/test_fused_attention_sums.py",
    "tests/ops/test_grouped_depthwise_conv.py",
    "tests/ops/test_grouped_window_conv.py",
)
# Sections of Nsight Compute.
COUNTERS = ("SpeedOfLight", "LaunchStats", "Occupancy", "WarpStateStats", "MemoryWorkloadAnalysis")


@dataclass
class Step:
    name: str
    function: str  # of checks, measure or operators
    arguments: tuple[str, ...] = ()
    limit: float = 60  # seconds
    under: tuple[str, ...] = ()  # the program that runs it
    environment: dict[str, str] = field(default_factory=dict)


def compiled(published: str | None, dry: bool) -> list[Step]:
    """What is compiled beside the checks, and measured when nothing else runs."""
    return [
        Step(f"compiled {task}, {dtype}", "measure.compiled", (task, dtype, published), 360)
        for task, dtype in (COMPILED if published and not dry else ())
    ]


def beside(dry: bool, some: str = "") -> list[Step]:
    """The checks, which run at the same time."""
    steps = [Step("versions", "checks.versions")]
    steps += [
        Step(
            f"{backend} {dtype} {i + 1}/{of}",
            "checks.operators",
            (backend, dtype, f"{i}/{of}", some),
            230,
        )
        for backend, of in ((("cpu", 1),) if dry else (("triton", 5), ("cuda", 3)))
        for dtype in (("float32",) if dry else ("float32", "bfloat16", "float16"))
        for i in range(of)
    ]
    steps += [
        Step(f"network {dtype}", "checks.network", (dtype,), 200)
        for dtype in (("float32",) if dry else ("float32", "bfloat16"))
    ]
    steps += [
        Step("no waiting", "checks.synchronisation", (), 150),
        Step("CUDA graph", "checks.graph", (), 150),
        Step("compiled step", "checks.compiled", (), 230),
        Step("specialists", "checks.specialists", (), 150),
        Step("training, no waiting", "training.waiting", (), 120),
    ]
    # Those skip without a GPU: a dry run has others.
    files = ("tests/inference/test_precision.py",) if dry else TESTS
    steps += [Step(name, "checks.tests", (name,), 180) for name in files]
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # as deterministic algorithms ask for
    steps += [
        Step(f"training, CUDA graph {dtype}", "training.graph", (dtype,), 120, (), fixed)
        for dtype in (("float32",) if dry else ("float32", "bfloat16"))
    ]
    sanitizer = ("compute-sanitizer", "--error-exitcode", "9")
    unused = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or else it cannot see where blocks end
    for backend in ("cuda", "triton") if shutil.which(sanitizer[0]) and not dry else ():
        name = f"compute-sanitizer {backend}"
        steps.append(Step(name, "checks.smallest", (backend,), 150, sanitizer, unused))
        if backend == "cuda":
            steps += [
                Step(f"compute-sanitizer {file}", "checks.tests", (file,), 200, sanitizer, unused)
                for file in TESTS[:2]
            ]
    return steps


def alone(out: Path, published: str | None, dry: bool, some: str = "") -> list[Step]:
    """What has the card for itself, one after the other."""
    whole, small = "moce_ir_s 1280 x 720", "compact 1280 x 720"
    step, small_step = "moce_ir_s step of 32 x 128 x 128", "compact step of 32 x 64 x 64"
    who = "ours;published" if dry else "ours;ours, triton;ours, tf32;published"
    theirs = published or ""
    small_tasks = f"{small};{small_step}"
    # Nsight Compute, where it is: what each kernel of the operators waits for.
    counters = ("ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv")
    counters += ("--page", "raw", "--log-file", str(out / "ncu.csv"))
    counters += tuple(f"--section={name}" for name in COUNTERS)
    dtypes = ("float32",) if dry else ("bfloat16", "float32")
    return [
        Step("ceilings", "measure.ceilings", (), 30),
        Step("inference", "measure.network", (whole, who, theirs), 80),
        Step("training", "measure.network", (step, "ours;published", theirs), 80),
        *(Step(f"whole training step {d}", "training.speed", (d,), 60) for d in dtypes),
        *(Step(f"operators {d}", "operators.operators", (d, some), 90) for d in dtypes),
        Step("experts", "operators.experts", (theirs,), 30),
        *(
            Step(f"kernels of {task}, {d}", "measure.profile", (task, d, str(out / file)), 30)
            for task, d, file in (
                (whole, "bfloat16", "kernels_infer_bf16.json.gz"),
                (step, "bfloat16", "kernels_train_bf16.json.gz"),
                (whole, "float32", "kernels_infer_f32.json.gz"),
                (step, "float32", "kernels_train_f32.json.gz"),
            )[: 1 if dry else 4]
        ),
        Step("compact network", "measure.network", (small_tasks, "ours", ""), 30),
        *(
            ()
            if dry
            else (Step("counters", "operators.profiled", ("bfloat16", some), 120, counters),)
        ),
    ]


def slice_of(arguments: argparse.Namespace, out: Path) -> Step:
    """What trains at the end, with plain PyTorch in place of the operators that failed."""
    from bench.lease.training import failed_operators

    rows = [json.loads(line) for line in (out / "lease.jsonl").read_text().splitlines()]
    backends = failed_operators(rows)
    return Step(
        "slice",
        "training.train",
        (
            *(str(arguments.train), str(arguments.pictures.resolve())),
            str(arguments.state.resolve()) if arguments.state else "",
            *(str(out / "state"), str(arguments.config.resolve()) if arguments.config else ""),
        ),
        60 * arguments.train + 120,
        (),
        {"MOCE_KERNELS_BACKEND": backends} if backends else {},
    )


class Log:
    """lease.jsonl, to which several steps write."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()

    def write(self, row: dict[str, Any]) -> None:
        with self.lock, self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


class Running:
    """A step's process, its rows copied to the log as they come."""

    def __init__(self, step: Step, log: Log, dry: bool) -> None:
        self.step, self.log, self.start = step, log, time.monotonic()
        command = [*step.under, sys.executable, "-m", "bench.lease"]
        command += ["--dry-run"] if dry else []
        command += ["--step", step.function, *step.arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **step.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.said: list[str] = []
        self.ready = threading.Event()  # to measure, or over
        self.threads = [threading.Thread(target=work) for work in (self._rows, self._errors)]
        for thread in self.threads:
            thread.start()

    def _rows(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            row = None
            if line.startswith("{"):
                with contextlib.suppress(ValueError):  # what a test printed
                    row = json.loads(line)
            if row is None:
                self.said = [*self.said[-60:], line]
                continue
            self.log.write({"step": self.step.name, **row})
            if row.get("run") == "compile":
                self.ready.set()
        self.ready.set()

    def _errors(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said = [*self.said[-60:], line]

    def left(self) -> float:
        return max(0.1, self.start + self.step.limit - time.monotonic())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The step stands still, and so does its clock."""
        start = time.monotonic()
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)
            self.start += time.monotonic() - start

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)  # what the step started, too

    def go(self) -> None:
        """Let a step that waits for its turn measure."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def finish(self) -> bool:
        """Wait for the end, or make it at the limit; whether it ended well."""
        try:
            self.process.wait(self.left())
            outcome = "failed" if self.process.returncode else "passed"
        except subprocess.TimeoutExpired:
            outcome = "timed out"
        if outcome != "passed":
            self._signal(signal.SIGKILL)
            self.process.wait()
        for thread in self.threads:
            thread.join(2)
        took = round(time.monotonic() - self.start, 1)
        row = {"step": self.step.name, "outcome": outcome, "seconds": took}
        if outcome != "passed":
            row["said"] = "".join(self.said)[-6000:]
        self.log.write(row)
        print(f"{took:6.1f} s  {self.step.name}: {outcome}", flush=True)
        return outcome == "passed"


def run_step(name: str, *arguments: str, dry: bool) -> None:
    """In a step's own process: print its rows."""
    import importlib

    import torch

    module, _, function = name.partition(".")
    device = torch.device("cpu" if dry else "cuda")
    if dry or module == "checks":  # which run side by side, and have references on the CPU
        torch.set_num_threads(1)
    values = [a or None for a in arguments]
    found = getattr(importlib.import_module(f"bench.lease.{module}"), function)
    for row in found(device, *values):
        print(json.dumps(row), flush=True)


def here() -> str:
    """The commit of this tree, if it can be known."""
    from bench.environment import commit

    return commit() if shutil.which("git") and (ROOT / ".git").exists() else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="folder for the results")
    parser.add_argument("--published", metavar="FOLDER", help="a clone of the published code")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="only steps whose names begin with STEP"
    )
    parser.add_argument("--commit", help="the commit, if git cannot tell")
    parser.add_argument(
        "--operators", default="", metavar="A,B", help="check and measure only these"
    )
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, on small inputs")
    slices = parser.add_argument_group("train a slice after the rest (moceir.training.slices)")
    slices.add_argument("--train", type=float, metavar="MINUTES", help="how long")
    slices.add_argument("--pictures", type=Path, metavar="FOLDER", help="clean pictures")
    slices.add_argument(
        "--state", type=Path, metavar="FOLDER", help="resume from it; written to OUT/state"
    )
    slices.add_argument("--config", type=Path, metavar="FILE", help="configs/moce_ir_s.yaml")
    parser.add_argument("--table", action="store_true", help="rewrite OUT/lease.md")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(*arguments.step, dry=arguments.dry_run)
        return
    if arguments.out is None:
        parser.error("name a folder for the results")
    if arguments.train is not None and arguments.pictures is None:
        parser.error("--train needs --pictures")
    if arguments.train is not None and not arguments.pictures.is_dir():
        parser.error(f"--pictures {arguments.pictures}: no such folder")
    if arguments.config is not None and not arguments.config.is_file():
        parser.error(f"--config {arguments.config}: no such file")
    out: Path = arguments.out.resolve()
    from bench.lease.table import write_table

    if arguments.table:
        print(write_table(out))
        return
    out.mkdir(parents=True, exist_ok=True)
    dry, published = arguments.dry_run, arguments.published
    published = str(Path(published).resolve()) if published else None
    log = Log(out / "lease.jsonl")
    if log.path.exists():
        raise SystemExit(f"{log.path} is there already: name another folder")

    def chosen(steps: list[Step]) -> list[Step]:
        only = arguments.only and ("versions", *arguments.only)
        return [s for s in steps if not only or s.name.startswith(only)]

    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    log.write({"step": "lease", "commit": arguments.commit or here(), "date": date, "dry": dry})
    good = True
    later = [Running(step, log, dry) for step in chosen(compiled(published, dry))]
    side = chosen(beside(dry, arguments.operators))
    if dry:
        for step in side:
            good &= Running(step, log, dry).finish()
    else:
        for running in [Running(step, log, dry) for step in side]:
            good &= running.finish()
    with contextlib.ExitStack() as standing:
        for running in later:
            standing.enter_context(running.paused())
        for step in chosen(alone(out, published, dry, arguments.operators)):
            good &= Running(step, log, dry).finish()
    if arguments.train is not None:  # which nobody times: compiling goes on beside it
        good &= Running(slice_of(arguments, out), log, dry).finish()
    for running in later:
        running.ready.wait(running.left())
    for running in later:
        running.go()
        good &= running.finish()
    print(write_table(out))
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
