"""Patches a second that the training data pipeline delivers, degraded.

    python bench/data_pipeline.py FOLDER

Pictures of FOLDER are decoded, cached, cut into patches of 128 x 128, flipped and turned, put into
batches of 32, and degraded with noise, rain or haze of random strength, as ``moceir train`` does
it; the network is left out. Wall-clock time depends on what else the machine does, so that the
processor time of this process is shown too: patches for each second of it are what one free core
delivers.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median

import click
import torch

from moceir.training.config import DataConfig, TrainingConfig
from moceir.training.data import RestorationData

KINDS = ["noise", "rain", "haze"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=20, show_default=True, help="Of 32 patches, for each repetition.")
@click.option("--repeat", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True, help="Of torch.")
@click.option("--mixture", default=1, show_default=True, help="Kinds in one patch, at most.")
def main(folder: Path, steps: int, repeat: int, threads: int, mixture: int) -> None:
    """Measure the pipeline on the pictures in FOLDER."""
    torch.set_num_threads(threads)
    data = DataConfig(train=folder, kinds=KINDS, max_mixture=mixture, crop=128, batch_size=32)
    config = TrainingConfig(preset="compact", data=data)
    pipeline = RestorationData(config)
    reads = pipeline.batches()

    def run(count: int) -> tuple[float, float]:
        start = time.perf_counter(), time.process_time()
        for _ in range(count):
            clean, degraded, _ = pipeline.source.batch(next(reads), torch.device("cpu"))
            assert clean.shape == degraded.shape == (32, 3, 128, 128)
        return time.perf_counter() - start[0], time.process_time() - start[1]

    cold = run(steps)
    warm = [run(steps) for _ in range(repeat)]
    patches = 32 * steps
    print(
        json.dumps(
            {
                "patches": patches,
                "threads": threads,
                "first_per_second": round(patches / cold[0]),
                "per_second": round(patches / median(wall for wall, _ in warm)),
                "per_processor_second": round(patches / median(cpu for _, cpu in warm)),
            }
        )
    )


if __name__ == "__main__":
    main()
