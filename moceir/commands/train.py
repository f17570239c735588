"""``moceir train``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import click

from moceir.commands.common import extra


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a network: moceir train --config configs/compact.yaml [--NAME VALUE ...]."""
    click.echo(extra("moceir.training.run", "train").main(arguments))
