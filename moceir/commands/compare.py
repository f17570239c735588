"""``moceir compare``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import OVERWRITE, PATH


@click.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The page, such as compare.html.")
@OVERWRITE
def compare(before: Path, after: Path, output: Path, overwrite: bool) -> None:
    """Write a web page that compares two images with a slider, in one self-contained file."""
    from moceir.web.compare import write_comparison

    write_comparison(before, after, output, overwrite=overwrite)
    click.echo(f"{output}: open it in a browser")
