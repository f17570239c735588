"""How well one degradation is removed and another left, and how well they are named.

    python -m moceir.evaluation.selective FOLDER -o selective.json

The centre of every image in the folder is degraded in one or two ways and rounded to 8 bits. Either
one of them is removed, and the result compared with the same image that has only the other; or what
is found is removed, and the result compared with the clean image. Clean images are taken whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image

from moceir import cli
from moceir.data import synthesis
from moceir.data.crops import middle
from moceir.data.kinds import KINDS
from moceir.data.synthesis import STRENGTHS, Recipe
from moceir.evaluation.methods import network
from moceir.evaluation.metrics import psnr
from moceir.evaluation.run import finite
from moceir.files import prepare_output, whole_file
from moceir.inference.restorer import Restorer
from moceir.inference.settings import FOUND
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import LUMA, to_image, to_tensor
from moceir.weights.bundled import BUNDLED

PAIRS = (
    "noise,rain",
    "noise,jpeg",
    "noise,motion_blur",
    "noise,low_light",
    "noise,haze",
    "noise,snow",
    "rain,haze",
    "rain,low_light",
    "snow,haze",
    "jpeg,defocus_blur",
    "jpeg,low_light",
)
"""Of the kinds that meet most often, each with each of the other's light."""

NOT_THERE = ("noise", "rain", "low_light")
"""What is removed from images that do not have it, which is to change nothing."""


class _Measured(NamedTuple):
    before: float
    """PSNR of the degraded image to what is aimed at, dB."""
    everything: float
    """The same with everything removed that the network removes."""
    after: float
    luminance: float
    """By how much the mean moved, percent."""
    same: bool


def measure(
    restorer: Restorer, pictures: Sequence[Path], kinds: str, strength: str, side: int | None
) -> list[dict[str, Any]]:
    """The rows of one way to degrade: ``found``, and ``only`` for each of its kinds.

    Args:
        kinds: some of KINDS with commas between them; none: clean images.
        strength: one of STRENGTHS.
        side: of the images' middle, pixels; None: whole.
    """
    names = tuple(kinds.split(",")) if kinds else ()
    wanted = names or NOT_THERE
    found: list[tuple[str, ...]] = []
    measured: dict[str, list[_Measured]] = {kind: [] for kind in (FOUND, *wanted)}
    for number, path in enumerate(pictures):
        clean = middle(open_rgb(path), side)
        degraded = _degraded(clean, names, strength, number)
        pixels = np.asarray(degraded)
        everything, _ = restorer.restore_pixels(pixels)
        for only, values in measured.items():
            left = () if only == FOUND else tuple(kind for kind in names if kind != only)
            target = clean if only == FOUND else _degraded(clean, left, strength, number)
            result, run = restorer.restore_pixels(pixels, only=only)
            if run.found is not None:
                found.append(run.found)
            before, after = _luminance(pixels), _luminance(result)
            values.append(
                _Measured(
                    _psnr(degraded, target),
                    _psnr(Image.fromarray(everything), target),
                    _psnr(Image.fromarray(result), target),
                    100 * abs(after - before) / max(before, 1e-3),
                    np.array_equal(result, pixels),
                )
            )
    rows = []
    for only, values in measured.items():
        rows.append(
            {
                "degradation": kinds or "none",
                "strength": strength if kinds else "",
                "only": only,
                "psnr_input": fmean(v.before for v in values),
                "psnr_everything": fmean(v.everything for v in values),
                "psnr": fmean(v.after for v in values),
                "worst_psnr": min(v.after for v in values),
                "worst_gain": min(v.after - v.before for v in values),
                "luminance_percent": fmean(v.luminance for v in values),
                "worst_luminance_percent": max(v.luminance for v in values),
                "untouched": sum(v.same for v in values),
            }
        )
        if only == FOUND:
            rows[-1]["found"] = {kind: sum(kind in of for of in found) for kind in KINDS}
    return rows


def _degraded(
    clean: Image.Image, kinds: tuple[str, ...], strength: str, number: int
) -> Image.Image:
    """With the same random numbers whichever of the kinds there are."""
    every = synthesis.at(",".join(KINDS), strength, [number])
    has = np.array([[kind in kinds for kind in KINDS]])
    recipe = Recipe(every.seed, every.numbers, every.strength * has)
    return to_image(synthesis.degrade(to_tensor(clean)[None], recipe)[0])


def _psnr(image: Image.Image, target: Image.Image) -> float:
    """dB; 100 for equal images, so that there are means."""
    return min(psnr(to_tensor(image), to_tensor(target)), 100.0)


def _luminance(pixels: np.ndarray) -> float:
    return float((pixels.mean((0, 1)) * LUMA).sum())


def tables(rows: Sequence[dict[str, Any]], pictures: int) -> str:
    """Two Markdown tables: of ``only``, and of ``found``."""
    lines = [
        "| degradation | only | PSNR input | everything removed | only that | worst gain "
        "| luminance moved, worst |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["only"] != FOUND:
            lines.append(
                f"| {_name(row)} | {row['only']} | {row['psnr_input']:.2f} | "
                f"{row['psnr_everything']:.2f} | {row['psnr']:.2f} | {row['worst_gain']:+.2f} | "
                f"{row['worst_luminance_percent']:.2f} % |"
            )
    lines += [
        "",
        f"| degradation | found in how many of {pictures} | untouched | PSNR input "
        "| everything removed | what was found | worst gain |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["only"] == FOUND:
            counts = ", ".join(f"{kind} {n}" for kind, n in row["found"].items() if n)
            lines.append(
                f"| {_name(row)} | {counts or 'nothing'} | {row['untouched']} | "
                f"{row['psnr_input']:.2f} | {row['psnr_everything']:.2f} | {row['psnr']:.2f} | "
                f"{row['worst_gain']:+.2f} |"
            )
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    return f"`{row['degradation']}`" + (f" {row['strength']}" if row["strength"] else "")


@click.command(cls=cli.Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--model", help="As for moceir restore. Default: compact.")
@click.option("--side", default=256, show_default=True, help="Measure the centre SIDE x SIDE.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="JSON file.")
def main(folder: Path, model: str | None, side: int, output: Path) -> None:
    """Measure --only and --auto of moceir restore on the clean pictures in FOLDER."""
    restorer, pictures = Restorer(model or BUNDLED[0]), find_pictures(folder)
    prepare_output(output)
    ways = [("", "medium")]
    ways += [(kind, strength) for kind in KINDS for strength in STRENGTHS]
    ways += [(pair, "medium") for pair in PAIRS]
    rows: list[dict[str, Any]] = []
    for kinds, strength in ways:
        rows += measure(restorer, pictures, kinds, strength, side if kinds else None)
        click.echo(f"{kinds or 'clean'} {strength}", err=True)
    content = {
        "pictures": len(pictures),
        "side": side,
        "environment": network(restorer).environment,
        "rows": rows,
    }
    with whole_file(output) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=1, allow_nan=False))
    click.echo(tables(rows, len(pictures)))


if __name__ == "__main__":
    main()
