"""What --only and --auto of moceir restore add to the time of a full restoration.

    python -m bench.selective --threads 1 --side 1024 -o bench/results/selective_cost.json

Ways to restore take turns; medians.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from moceir.evaluation.methods import network
from moceir.inference.restorer import Restorer

WAYS: dict[str, dict[str, Any]] = {
    "everything": {},
    "light": {"light": 0.5},
    "only": {"only": "noise"},
    "auto": {"only": "found"},
}


@click.command()
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--side", default=1024, show_default=True)
@click.option("--repeat", default=7, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(threads: tuple[int, ...], side: int, repeat: int, output: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    results = []
    for number in threads:
        restorer = Restorer("compact", "cpu", threads=number)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(repeat + 1):  # the first time does not count
            for way, settings in WAYS.items():
                start = time.perf_counter()
                restorer.restore_pixels(pixels, **settings)
                seconds[way].append(time.perf_counter() - start)
        medians = {way: statistics.median(values[1:]) for way, values in seconds.items()}
        ratios = {way: round(value / medians["everything"], 2) for way, value in medians.items()}
        print(f"{number} threads: {ratios}")
        environment = network(restorer).environment
        results.append({"environment": environment, "seconds": medians, "ratios": ratios})
    output.write_text(json.dumps({"side": side, "repeat": repeat, "results": results}, indent=1))


if __name__ == "__main__":
    main()
