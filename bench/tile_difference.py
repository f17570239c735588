"""How far do tiled and whole results differ?

    python bench/tile_difference.py --side 768 --kinds noise rain haze

A picture tiled up from the samples is degraded and restored whole and in tiles. Prints, for each
kind of damage and each tile size, the PSNR of both against the clean picture, the mean and the
largest difference between both (8-bit levels), and the routes that the tiles took.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from moceir.data import degradations
from moceir.inference.restorer import Restorer
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_image, to_tensor

SAMPLES = Path(__file__).parents[1] / "samples" / "clean"


def tiled_up(width: int, height: int) -> Image.Image:
    """The samples side by side, again and again."""
    samples = [open_rgb(path) for path in sorted(SAMPLES.glob("*.png"))]
    picture = Image.new("RGB", (width, height))
    w, h = samples[0].size
    for i, top in enumerate(range(0, height, h)):
        for j, left in enumerate(range(0, width, w)):
            picture.paste(samples[(3 * i + j) % len(samples)], (left, top))
    return picture


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--kinds", nargs="+", default=["noise", "rain", "haze"])
    parser.add_argument("--model", default="compact", help="as in moceir restore")
    parser.add_argument("--device")
    parser.add_argument(
        "--save", type=Path, help="write a 24-megapixel picture made so here, and no more"
    )
    arguments = parser.parse_args()
    clean = tiled_up(arguments.side, arguments.side)
    if arguments.save:
        tiled_up(6000, 4000).save(arguments.save, quality=92)
        return
    target = np.asarray(clean)
    restorer = Restorer(arguments.model, arguments.device)
    for kind in arguments.kinds:
        degraded = degradations.degrade(to_tensor(clean)[None], degradations.parse(kind), seed=0)
        pixels = np.asarray(to_image(degraded[0]))
        whole, run = restorer.restore_pixels(pixels, tile=0)
        print(f"{kind}: input {psnr(pixels, target):.2f} dB")
        print(f"  whole: {psnr(whole, target):.2f} dB, experts {run.experts}", flush=True)
        for tile, overlap in ((512, 64), (256, 64), (256, 128)):
            tiled, run = restorer.restore_pixels(pixels, tile=tile, tile_overlap=overlap)
            difference = np.abs(tiled.astype(float) - whole.astype(float))
            routes = ", ".join(f"{r} x{n}" for r, n in Counter(run.tile_experts).most_common(4))
            print(
                f"  tiles of {tile}, overlap {overlap}: {psnr(tiled, target):.2f} dB; to whole: "
                f"{psnr(tiled, whole):.2f} dB, mean {difference.mean():.2f}, largest "
                f"{difference.max():.0f}; routes {routes}",
                flush=True,
            )


if __name__ == "__main__":
    main()
