"""``moceir info``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import click


@click.command()
def info() -> None:
    """Show which devices, backends and weights are available, and why others are not."""
    from moceir.inference.info import machine_report

    click.echo(machine_report())
