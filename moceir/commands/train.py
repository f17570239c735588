"""``moceir train``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import click


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a network: moceir train --config configs/compact.yaml [--NAME VALUE ...]."""
    try:
        from moceir.training import run
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'moceir[train]'"
        ) from error
    click.echo(run.main(arguments))
