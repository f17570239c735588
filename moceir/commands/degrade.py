"""``moceir degrade``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import OVERWRITE, PATH


@click.command()
@click.argument("picture", type=PATH, metavar="IMAGE")
@click.option("-o", "--output", required=True, type=PATH, help="The degraded image.")
@click.option(
    "--kind", required=True, help="Degradations in order, such as rain,haze or noise:sigma=50."
)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same image.")
@OVERWRITE
def degrade(picture: Path, output: Path, kind: str, seed: int, overwrite: bool) -> None:
    """Degrade a clean image with noise, rain, haze, blur, low light, snow or JPEG."""
    from moceir.data.degradations import degrade_file, parse

    degradation = parse(kind)
    notes = degrade_file(picture, output, degradation, seed, overwrite=overwrite)
    click.echo("; ".join([f"{output}: {degradation}, seed {seed}", *notes]))
