"""Restore many small images: does memory stay flat, and does the tool keep the network busy?

    python bench/tool_throughput.py --pictures 1000 --side 64

Prints the process's memory after the first 100 pictures and at the end, and pictures per second
of the whole tool (reading, restoring and writing files) compared with those of the bare
network on the same images in memory, one at a time. The two take turns in blocks of 100, so that
both see the same machine conditions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moceir import machine
from moceir.inference.batch import restore_files
from moceir.inference.planning import plan_files
from moceir.inference.restorer import Restorer

BLOCK = 100


def resident() -> float:
    """MB that the process holds; Linux only."""
    return machine._fields(machine._OWN_STATUS)["VmRSS"] / 1e6


def bare(restorer: Restorer, images: list[torch.Tensor]) -> float:
    """Seconds of the network alone."""
    start = time.perf_counter()
    with torch.inference_mode():
        for image in images:
            restorer.model(image, return_routing=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of torch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    restorer = Restorer("compact", "cpu")
    generator = np.random.default_rng(0)
    side, blocks = arguments.side, -(-arguments.pictures // BLOCK)
    tool_seconds = bare_seconds = 0.0
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for block in range(blocks):
            source = Path(folder, f"in{block}")
            source.mkdir()
            arrays = generator.integers(0, 256, (BLOCK, side, side, 3), dtype=np.uint8)
            for i, pixels in enumerate(arrays):
                Image.fromarray(pixels).save(source / f"{i}.jpg", quality=90)
            images = [torch.from_numpy(a).permute(2, 0, 1)[None].float() / 255 for a in arrays]
            if block == 0:
                bare(restorer, images[:5])
            bare_seconds += bare(restorer, images)
            plan = plan_files(source, Path(folder, f"out{block}"))
            start = time.perf_counter()
            counts = restore_files(plan, restorer, jobs=arguments.jobs)
            tool_seconds += time.perf_counter() - start
            assert counts == {"restored": BLOCK}
            first = first or resident()
    count = blocks * BLOCK
    print(f"{count} images of {side} x {side}, {torch.get_num_threads()} threads of torch")
    print(f"memory: {first:.0f} MB after {BLOCK}, {resident():.0f} MB at the end")
    print(f"bare network: {count / bare_seconds:.1f} images/s")
    print(
        f"whole tool:   {count / tool_seconds:.1f} images/s, "
        f"{bare_seconds / tool_seconds:.1%} of the bare network"
    )


if __name__ == "__main__":
    main()
