"""What it costs a tile when other work keeps the cores busy, by how the threads wait.

    python bench/thread_waiting.py --busy 0 --busy 2 -o results.json

A tile is some 140 parallel regions. Where threads meet, GNU's OpenMP spins for milliseconds unless
OMP_WAIT_POLICY is passive, and takes the core from the thread that it waits for. One process for
each setting restores tiles in turn. ``--busy`` starts so many processes that do nothing but count.

Each sample begins when the rest of the machine uses no more than ``--quiet`` cores besides the
counting ones, and counts if that stayed so (``others``). On a machine with other work it takes a
while until enough of them are found, or it never comes to that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import click

from moceir.files import whole_file

SETTINGS: dict[str, tuple[int, dict[str, str]]] = {
    "1 thread": (1, {}),
    "spinning": (0, {}),
    "passive": (0, {"OMP_WAIT_POLICY": "passive"}),
    "spin 100": (0, {"GOMP_SPINCOUNT": "100"}),
    "spin 1000": (0, {"GOMP_SPINCOUNT": "1000"}),
    "spin 10000": (0, {"GOMP_SPINCOUNT": "10000"}),
}
"""Threads (0: as many as cores) and environment."""

WORKER = """
import sys, time, torch
threads, side, tiles = map(int, sys.argv[1:])
torch.set_num_threads(threads)
from moceir.inference.restorer import Restorer
restorer = Restorer("compact", "cpu")
image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
restorer(image, tile=0)
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter(), time.process_time()
    for _ in range(tiles):
        restorer(image, tile=0)
    print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
"""

COUNTING = "while True: pass"


def busy_seconds() -> float:
    """Of all cores together, since the machine started."""
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


@click.command()
@click.option("--busy", "busies", type=click.IntRange(0), multiple=True, default=(0, 2))
@click.option("--side", default=256, show_default=True, help="Of the tile, pixels.")
@click.option("--tiles", default=3, show_default=True, help="Of a sample.")
@click.option("--samples", default=9, show_default=True, help="Of each setting, at least.")
@click.option("--quiet", default=0.2, show_default=True, help="Cores that others may use.")
@click.option("--minutes", default=5.0, show_default=True, help="For each --busy, at most.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="JSON file.")
def main(
    busies: tuple[int, ...],
    side: int,
    tiles: int,
    samples: int,
    quiet: float,
    minutes: float,
    output: Path,
) -> None:
    """Time a tile by the number of threads and by how they wait."""
    cores = len(os.sched_getaffinity(0))
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    plain["PYTHONPATH"] = os.pathsep.join(sys.path)
    workers = {
        setting: subprocess.Popen(
            [sys.executable, "-c", WORKER, str(threads or cores), str(side), str(tiles)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=plain | more,
        )
        for setting, (threads, more) in SETTINGS.items()
    }
    rows = []
    try:
        for worker in workers.values():
            _answer(worker)
        for busy in busies:
            rows += _rows(workers, busy, tiles, samples, quiet, minutes)
    finally:
        for worker in workers.values():
            worker.kill()
    with whole_file(output) as temporary:
        content = {"cores": cores, "side": side, "tiles": tiles, "quiet": quiet, "rows": rows}
        temporary.write_text(json.dumps(content, indent=1))


def _answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


def _rows(
    workers: dict[str, subprocess.Popen[str]],
    busy: int,
    tiles: int,
    samples: int,
    quiet: float,
    minutes: float,
) -> list[dict[str, object]]:
    found: dict[str, list[tuple[float, float, float]]] = {setting: [] for setting in workers}
    counting = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(busy)]
    end = time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < end:
            for setting, worker in workers.items():
                _await_calm(busy + quiet, end)
                before = time.perf_counter(), busy_seconds()
                assert worker.stdin is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
                wall, cpu = map(float, _answer(worker).split())
                elapsed = time.perf_counter() - before[0]
                others = (busy_seconds() - before[1] - cpu) / elapsed
                found[setting].append((others, wall / tiles, cpu / tiles))
            if all(len(_calm(f, busy, quiet)) >= samples for f in found.values()):
                break
    finally:
        for process in counting:
            process.kill()
    rows = []
    for setting, all_samples in found.items():
        calm = _calm(all_samples, busy, quiet)
        row: dict[str, object] = {"busy": busy, "setting": setting, "samples": len(all_samples)}
        row["used"] = len(calm)
        if calm:
            row["seconds"] = round(median(wall for _, wall, _ in calm), 4)
            row["processor_seconds"] = round(median(cpu for _, _, cpu in calm), 4)
            row["others"] = round(median(others for others, _, _ in calm), 2)
        rows.append(row)
        click.echo(json.dumps(row))
    return rows


def _await_calm(cores: float, end: float) -> None:
    """Until all processes together use no more than so many cores, or the time is over."""
    while time.monotonic() < end:
        start = time.monotonic(), busy_seconds()
        time.sleep(0.3)
        if busy_seconds() - start[1] <= cores * (time.monotonic() - start[0]):
            return


def _calm(
    samples: list[tuple[float, float, float]], busy: int, quiet: float
) -> list[tuple[float, float, float]]:
    return [sample for sample in samples if sample[0] <= busy + quiet]


if __name__ == "__main__":
    main()
