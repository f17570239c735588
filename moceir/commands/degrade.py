"""``moceir degrade``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from typing import Any

import click

from moceir.commands import files


@click.command()
@files.options
@click.option(
    "--kind", required=True, help="Degradations in order, such as rain,haze or noise:sigma=50."
)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same images.")
@click.pass_context
def degrade(ctx: click.Context, kind: str, seed: int, **selection: Any) -> None:
    """Degrade clean images, or whole folders of them, with noise, rain, haze, blur, low light, snow
    or JPEG.

    INPUT is a file, a folder, or a pattern in quotes such as 'in/*.jpg'.
    """
    from moceir.data.degradations import parse
    from moceir.inference.degrading import degrade_files

    degradation = parse(kind)
    run = files.Run(ctx, "degraded", **selection)
    if run.was_dry():
        return
    with run.until_stopped():
        run.label = f"{degradation}, seed {seed}"
        degrade_files(run.plan, degradation, seed, report=run.add)
    run.finish()
