"""``moceir figures errors`` and ``moceir figures quality``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import DEVICE, MODEL, PATH, check_figures, drawn


@click.group()
def figures() -> None:
    """Draw error maps, or quality against cost, like figures 3 and 4 of the paper."""


@figures.command()
@MODEL
@click.option(
    "--pair",
    "pairs",
    type=(PATH, PATH),
    multiple=True,
    required=True,
    metavar="DEGRADED CLEAN",
    help="A degraded image and the clean one; may be repeated.",
)
@DEVICE
@drawn
def errors(
    model: str | None,
    pairs: tuple[tuple[Path, Path], ...],
    device: str | None,
    outputs: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Draw images with maps of their errors (figure 3 of the paper)."""
    check_figures(outputs, overwrite)
    from moceir.figures.draw import save
    from moceir.figures.errors import errors_figure, examples
    from moceir.inference.restorer import Restorer

    save(errors_figure(examples(pairs, Restorer(model, device))), outputs)


@figures.command()
@click.argument("results", nargs=-1, required=True, type=PATH, metavar="RESULTS.JSON...")
@click.option(
    "--setting", type=click.Choice(["aio3", "aio5", "cdd11"]), default="aio5", show_default=True
)
@drawn
def quality(
    results: tuple[Path, ...], setting: str, outputs: tuple[Path, ...], overwrite: bool
) -> None:
    """Draw quality against parameters and compute, for your results and the papers' (figure 4)."""
    check_figures(outputs, overwrite)
    from moceir.figures.draw import save
    from moceir.figures.quality import quality_figure, read_result

    save(quality_figure([read_result(path) for path in results], setting), outputs)
