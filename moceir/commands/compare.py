"""``moceir compare``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, refuse_existing


@click.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The page, such as compare.html.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it is already there.")
def compare(before: Path, after: Path, output: Path, overwrite: bool) -> None:
    """Write a web page that shows two pictures under a slider, in one file without a network."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise click.ClickException(f"{output}: name it .html")
    refuse_existing(output, overwrite)
    from moceir.web.compare import write_comparison

    write_comparison(before, after, output)
    click.echo(f"{output}: open it in a browser")
