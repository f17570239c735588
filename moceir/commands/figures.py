"""``moceir figures errors`` and ``moceir figures quality``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, check_figures, drawn


@click.group()
def figures() -> None:
    """Draw maps of errors, and quality against cost, as the paper's figures 3 and 4."""


@figures.command()
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "--pair",
    "pairs",
    type=(PATH, PATH),
    multiple=True,
    required=True,
    metavar="DEGRADED CLEAN",
    help="A degraded picture and the clean one; may be repeated.",
)
@click.option("--device", help="Torch device. Default: a GPU if there is one.")
@drawn
def errors(
    model: str | None,
    pairs: tuple[tuple[Path, Path], ...],
    device: str | None,
    outputs: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Pictures beside the maps of their errors."""
    check_figures(outputs, overwrite)
    from moceir.data.datasets import Pair, check_sizes
    from moceir.figures.draw import save
    from moceir.figures.errors import Example, errors_figure
    from moceir.inference.restorer import Restorer
    from moceir.pictures.images import open_rgb
    from moceir.pictures.pixels import to_tensor

    opened = []
    for degraded, clean in pairs:
        images = open_rgb(degraded), open_rgb(clean)
        check_sizes(Pair(clean, degraded), images[0].size, images[1].size)
        opened.append((degraded.stem, to_tensor(images[0]), to_tensor(images[1])))
    restorer = Restorer(model, device)
    examples = [Example(name, bad, restorer(bad[None])[0], good) for name, bad, good in opened]
    save(errors_figure(examples), outputs)


@figures.command()
@click.argument("results", nargs=-1, required=True, type=PATH, metavar="RESULTS.JSON...")
@click.option(
    "--setting", type=click.Choice(["aio3", "aio5", "cdd11"]), default="aio5", show_default=True
)
@drawn
def quality(
    results: tuple[Path, ...], setting: str, outputs: tuple[Path, ...], overwrite: bool
) -> None:
    """Quality against parameters and compute, of results of moceir evaluate and of the papers."""
    check_figures(outputs, overwrite)
    from moceir.figures.draw import save
    from moceir.figures.quality import quality_figure, read_result

    save(quality_figure([read_result(path) for path in results], setting), outputs)
