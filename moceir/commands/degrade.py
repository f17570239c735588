"""``moceir degrade``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, refuse_existing


@click.command()
@click.argument("picture", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The degraded picture.")
@click.option("--kind", required=True, help="Such as rain,haze or noise:sigma=50; see docs.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same picture.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it is already there.")
def degrade(picture: Path, output: Path, kind: str, seed: int, overwrite: bool) -> None:
    """Degrade a clean picture with noise, rain, haze, blur, low light, snow or JPEG."""
    from moceir.data import degradations
    from moceir.pictures import codec

    degradation = degradations.parse(kind)
    refuse_existing(output, overwrite)
    degraded = degradations.degrade_picture(codec.read(picture), degradation, seed)
    notes = [*degraded.notes, *codec.write(degraded, output)]
    click.echo("; ".join([f"{output}: {degradation}, seed {seed}", *notes]))
