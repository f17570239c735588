"""PSNR and SSIM on synthetically degraded images: the numbers of a model card, and baselines.

    python -m moceir.evaluation.synthetic FOLDER -o results.json
    python -m moceir.evaluation.synthetic FOLDER -m compact -m peer:bm3d -m peer:dark_channel \\
        --rows synthesis --rows variants --side 256 -o results.json

Every image in the folder is degraded in every way, rounded to 8 bits as in a file, restored to 8
bits, and compared with the clean image: RGB, PSNR and Gaussian SSIM of scikit-image. Classical
methods (``peer:``) are measured only on the rows they are meant for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from moceir import cli
from moceir.config import PRECISIONS
from moceir.data.crops import middle
from moceir.evaluation.methods import Method, find_method
from moceir.evaluation.metrics import psnr
from moceir.evaluation.rows import ROWS, Row, parse_row
from moceir.evaluation.run import finite
from moceir.files import prepare_output, whole_file
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import to_image, to_tensor


def quality(image: Image.Image, clean: Image.Image) -> tuple[float, float]:
    """PSNR in dB and SSIM (Gaussian window, sigma 1.5) of two 8-bit RGB images of one size.

    The PSNR of equal images is infinite.
    """
    a, b = np.asarray(clean), np.asarray(image)
    ssim = structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return psnr(to_tensor(image), to_tensor(clean)), float(ssim)


def evaluate(
    methods: Sequence[Method], pictures: Sequence[Path], row: Row, side: int | None = None
) -> list[dict[str, Any]]:
    """Measure the methods that the row is meant for, all on the same degraded images.

    Image i is cropped to its centre, then degraded with the randomness of number i.

    Returns:
        For each method: means of PSNR (dB) and SSIM before and after; the mean ``gain`` of PSNR;
        and of the image that gained least, its name, gain and PSNR. Gains over equal images,
        whose PSNR is infinite, are minus infinity.

    Raises:
        PictureError: an image that cannot be read, or that a method cannot take.
    """
    methods = [method for method in methods if method.is_for(row.kinds, row.sigma)]
    measured: list[list[tuple[float, ...]]] = [[] for _ in methods]
    for number, path in enumerate(pictures if methods else ()):
        clean = middle(open_rgb(path), side)
        degraded = to_image(row.degrade(to_tensor(clean), number))
        before = quality(degraded, clean)
        for method, found in zip(methods, measured, strict=True):
            restored = method.restore(to_tensor(degraded), row.sigma, None).image
            found.append((*before, *quality(to_image(restored), clean)))
    return [
        _summary(method, row, pictures, found)
        for method, found in zip(methods, measured, strict=True)
    ]


def _summary(
    method: Method, row: Row, pictures: Sequence[Path], found: list[tuple[float, ...]]
) -> dict[str, Any]:
    names = ("psnr_input", "ssim_input", "psnr", "ssim")
    gains = [0.0 if after == before else after - before for before, _, after, _ in found]
    worst = min(range(len(found)), key=lambda i: (gains[i], found[i][2]))
    return {
        "method": method.name,
        "degradation": row.text,
        "source": row.source,
        **{name: fmean(values[i] for values in found) for i, name in enumerate(names)},
        "gain": fmean(gains),
        "worst_gain": gains[worst],
        "worst_psnr": found[worst][2],
        "worst_picture": pictures[worst].stem,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of one method's rows of ``evaluate``."""
    lines = [
        "| degradation | PSNR input | PSNR restored | gain | worst gain | SSIM input "
        "| SSIM restored |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| `{row['degradation']}` | {row['psnr_input']:.2f} | {row['psnr']:.2f} | "
            f"{_signed(row['gain'])} | {_signed(row['worst_gain'])} | {row['ssim_input']:.3f} | "
            f"{row['ssim']:.3f} |"
        )
    return "\n".join(lines)


def comparison(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with a column for each method: the mean gain, and the worst one in brackets.

    For images that were not degraded, it is the resulting PSNR, without a sign.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["degradation"], row["method"]): row for row in rows}
    lines = [
        f"| degradation | PSNR input | {' | '.join(f'`{name}`' for name in methods)} |",
        "| --- | ---: |" + " ---: |" * len(methods),
    ]
    for degradation, before in {r["degradation"]: r["psnr_input"] for r in rows}.items():
        found = (cells.get((degradation, name)) for name in methods)
        lines.append(
            f"| `{degradation}` | {before:.2f} | "
            + " | ".join(_cell(row) if row else "" for row in found)
            + " |"
        )
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    if math.isinf(row["gain"]):
        return f"{row['psnr']:.2f} ({row['worst_psnr']:.2f})"
    return f"{_signed(row['gain'])} ({_signed(row['worst_gain'])})"


def _signed(gain: float) -> str:
    return "" if math.isinf(gain) else f"{gain:+.2f}"


@click.command(cls=cli.Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    help="As for moceir evaluate; may be repeated. Default: the bundled weights.",
)
@click.option(
    "-d", "--degradation", "degradations", multiple=True, help="A single row; may be repeated."
)
@click.option(
    "--rows",
    "sets",
    type=click.Choice(list(ROWS)),
    multiple=True,
    help="A set of rows; may be repeated. Default: card, unless -d is given.",
)
@click.option("--side", type=click.IntRange(16), help="Measure the centre SIDE x SIDE pixels.")
@click.option("--precision", type=click.Choice(list(PRECISIONS)), help="As for moceir restore.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="JSON file.")
def main(
    folder: Path,
    models: tuple[str, ...],
    degradations: tuple[str, ...],
    sets: tuple[str, ...],
    side: int | None,
    precision: str | None,
    output: Path,
) -> None:
    """Measure networks and classical methods on the clean pictures in FOLDER."""
    chosen = sets if sets or degradations else ("card",)
    texts = dict.fromkeys([*(text for name in chosen for text in ROWS[name]), *degradations])
    parsed = [parse_row(text) for text in texts]
    methods = [find_method(name, None, precision) for name in dict.fromkeys(models or (None,))]
    pictures = find_pictures(folder)
    prepare_output(output)
    rows: list[dict[str, Any]] = []
    for row in parsed:
        for found in evaluate(methods, pictures, row, side):
            rows.append(found)
            click.echo(f"{found['method']} {table([found]).splitlines()[-1]}", err=True)
    content = {
        "pictures": len(pictures),
        "side": side,
        "methods": {method.name: method.environment for method in methods},
        "rows": rows,
    }
    with whole_file(output) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=1, allow_nan=False))
    part = f"the centre {side} x {side} pixels" if side else "whole images"
    click.echo(
        f"{len(pictures)} images, {part}, RGB, rounded to 8 bits before and after restoration; "
        "PSNR in dB, SSIM with a Gaussian window of sigma 1.5\n"
    )
    click.echo(table(rows) if len(methods) == 1 else comparison(rows))


if __name__ == "__main__":
    main()
