"""PSNR and SSIM of a network on degraded clean pictures: the numbers of a model card.

    python -m moceir.evaluation.synthetic FOLDER -o results.json

Every picture of the folder is degraded in every way, rounded to 8 bits as in a file, restored to 8
bits, and compared with the clean picture: RGB, PSNR and Gaussian SSIM of scikit-image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import click
import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from moceir.data.degradations import KINDS, degrade, parse
from moceir.files import whole_file
from moceir.inference.restorer import Restorer
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import to_image, to_tensor

OTHER_PARAMETERS = (
    "noise:sigma=50",
    "motion_blur:angle=120",
    "motion_blur:length=15:angle=75",
    "defocus_blur:radius=3",
    "jpeg:quality=30",
)
"""What else a network can do that has seen the default parameters more often than others."""

MIXTURES = (
    "low_light,noise",
    "haze,rain",
    "haze,snow",
    "rain,noise",
    "motion_blur,noise",
    "noise,jpeg:quality=30",
)


def quality(image: Image.Image, clean: Image.Image) -> tuple[float, float]:
    """PSNR in dB and SSIM (Gaussian window, sigma 1.5) of two 8-bit RGB images of one size."""
    a, b = np.asarray(clean), np.asarray(image)
    ssim = structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(peak_signal_noise_ratio(a, b)), float(ssim)


def evaluate(
    restorer: Restorer, pictures: Sequence[Path], degradation: str
) -> dict[str, str | float]:
    """Mean PSNR (dB) and SSIM of degraded and restored pictures, picture i drawn with seed i."""
    rows = []
    for seed, path in enumerate(pictures):
        clean = open_rgb(path)
        degraded = to_image(degrade(to_tensor(clean)[None], parse(degradation), seed)[0])
        rows.append((*quality(degraded, clean), *quality(restorer(degraded), clean)))
    names = ("psnr_input", "ssim_input", "psnr", "ssim")
    means = {name: fmean(row[i] for row in rows) for i, name in enumerate(names)}
    return {"degradation": degradation, **means}


def table(rows: Sequence[dict[str, str | float]]) -> str:
    """A Markdown table of the rows of ``evaluate``."""
    lines = [
        "| degradation | PSNR input | PSNR restored | gain | SSIM input | SSIM restored |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        gain = float(row["psnr"]) - float(row["psnr_input"])
        lines.append(
            f"| `{row['degradation']}` | {row['psnr_input']:.2f} | {row['psnr']:.2f} | "
            f"{gain:+.2f} | {row['ssim_input']:.3f} | {row['ssim']:.3f} |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--model", help="As for moceir restore. Default: the bundled weights.")
@click.option("-d", "--degradation", "degradations", multiple=True, help="Default: the card's.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="JSON file.")
def main(folder: Path, model: str | None, degradations: tuple[str, ...], output: Path) -> None:
    """Measure a network on the clean pictures in FOLDER."""
    restorer = Restorer(model)
    pictures = find_pictures(folder)
    rows = []
    for degradation in degradations or (*KINDS, *OTHER_PARAMETERS, *MIXTURES):
        rows.append(evaluate(restorer, pictures, degradation))
        click.echo(table(rows).splitlines()[-1])
    with whole_file(output) as temporary:
        temporary.write_text(json.dumps({"pictures": len(pictures), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
