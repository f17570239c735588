"""Files that were made to do harm, or are merely broken: weights and configurations.

    python -m tests.hostile [--seed 0]

makes all of them, gives each to the loader in a process of its own, and prints what became of it:
the processor time, the memory beyond that of the warm process, the message. Each must be refused
with one line, in less than a second and 200 MB. ``tests/test_hostile.py`` takes a part of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.hostile.configurations import configurations
from tests.hostile.weights import weights

ROOT = Path(__file__).parents[2]

MEGABYTES = 200


class Result(NamedTuple):
    """What became of one file."""

    name: str
    refused: bool
    """With the error that it should be."""
    message: str
    seconds: float
    """Of a processor."""
    megabytes: float
    """Beyond what the process had before."""

    def problems(self, seconds: float) -> list[str]:
        found = []
        if not self.refused:
            found.append(f"not refused as it should be: {self.message}")
        if "\n" in self.message or len(self.message) > 2000 or "Traceback" in self.message:
            found.append(f"not one short line: {self.message[:300]!r}")
        if self.seconds > seconds:
            found.append(f"{self.seconds:.2f} s")
        if self.megabytes > MEGABYTES:
            found.append(f"{self.megabytes:.0f} MB")
        return found


def _loader(kind: str) -> tuple[Callable[[str], object], type[Exception]]:
    """What reads such files, warm, and the error that it is to raise."""
    if kind == "weights":
        from moceir.errors import WeightsError
        from moceir.model import load_model

        load_model("compact")
        return load_model, WeightsError
    from moceir.errors import ConfigError
    from moceir.training.options import parse

    parse([])
    return lambda path: parse(["--config", path]), ConfigError


def try_all(kind: str, paths: Sequence[Path]) -> list[Result]:
    """Reads each file in a fork of this process, which has loaded what it needs before."""
    load, expected = _loader(kind)
    return [_try(path, load, expected) for path in paths]


def _try(path: Path, load: Callable[[str], object], expected: type[Exception]) -> Result:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(20)
        before = _memory("VmRSS")
        # So that nothing here takes the machine with it; what is asserted is far below.
        resource.setrlimit(resource.RLIMIT_AS, (2**37 + 2**33, resource.RLIM_INFINITY))
        try:
            load(str(path))
            refused, message = False, "loaded"
        except expected as error:
            refused, message = True, str(error)
        except BaseException as error:
            refused, message = False, f"{type(error).__name__}: {error}"
        with os.fdopen(writing, "w") as file:
            json.dump([refused, message[:10_000], _memory("VmHWM") - before], file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status, usage = os.wait4(child, 0)
    refused, message, grown = (
        json.loads(text) if text else (False, f"ended with status {status}", math.inf)
    )
    return Result(path.name, refused, message, usage.ru_utime + usage.ru_stime, grown)


def _memory(name: str) -> float:
    """MiB of memory that this process has, or has had at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


KINDS = {"weights": weights, "configurations": configurations}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="Take every n-th file alone.")
    parser.add_argument("--seconds", type=float, default=1.0, help="That each may take.")
    options = parser.parse_args()
    bad = 0
    for kind, make in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # where code that is run would leave its file
            paths = make(Path(folder), options.seed)
            results = try_all(kind, paths[options.seed % options.every :: options.every])
            if Path("ran").exists():
                print("code was run")
                bad += 1
            os.chdir(ROOT)
        for result in results:
            wrong = result.problems(options.seconds)
            bad += bool(wrong)
            print(
                f"{result.seconds:5.2f} s {result.megabytes:4.0f} MB  {result.name}: "
                + ("WRONG: " + "; ".join(wrong) if wrong else result.message[:160])
            )
        print(
            f"{kind}: {len(results)} of {len(paths)} files, at most "
            f"{max(r.seconds for r in results):.2f} s and "
            f"{max(r.megabytes for r in results):.0f} MB"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
