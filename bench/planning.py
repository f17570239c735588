"""How soon is the first of very many images done, and in how much memory?

    python bench/planning.py --images 1000000
    python bench/planning.py --images 10000000 --list --shard 3/100

Empty files stand for the images: reading each fails at once, and the network is never loaded. They
are made in 100 folders below a temporary one; with --list, names without files are planned instead.
Prints the time to the first result and to 1,000, that of planning all images, and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moceir.inference.batch import restore_files
from moceir.inference.jobs import Outcome, Plan
from moceir.inference.planning import plan_files

FOLDERS = 100


class _Enough(Exception):
    pass


def peak() -> float:
    """MB that the process has held; Linux only."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_results(make: Callable[[], Plan]) -> None:
    seen = 0

    def report(outcome: Outcome) -> None:
        nonlocal seen
        seen += 1
        if seen in (1, 1000):
            seconds = time.perf_counter() - start
            print(f"{seen} results: {seconds:.2f} s, peak {peak():.0f} MB", flush=True)
        if seen == 1000:
            raise _Enough

    start = time.perf_counter()
    try:
        restore_files(make(), report=report)
    except _Enough:
        return


def whole_plan(make: Callable[[], Plan]) -> None:
    start = time.perf_counter()
    count = sum(1 for _ in make())
    seconds = time.perf_counter() - start
    print(f"planned {count:,} images: {seconds:.1f} s, peak {peak():.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--list", action="store_true", help="names in a list, without files")
    parser.add_argument("--ext")
    parser.add_argument("--shard")
    arguments = parser.parse_args()
    names = (
        f"{i * FOLDERS // arguments.images:02d}/IMG_{i:08d}.jpg" for i in range(arguments.images)
    )
    settings: dict[str, Any] = {"ext": arguments.ext, "shard": arguments.shard}
    print(f"imported: peak {peak():.0f} MB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.list:
            whole_plan(lambda: plan_files(folder, Path(folder, "out"), files=names, **settings))
            return
        for i in range(FOLDERS):
            Path(folder, "in", f"{i:02d}").mkdir(parents=True)
        for name in names:
            Path(folder, "in", name).touch()
        for measure in (whole_plan, first_results):
            measure(lambda: plan_files(Path(folder, "in"), Path(folder, "out"), **settings))


if __name__ == "__main__":
    main()
