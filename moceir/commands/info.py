"""``moceir info``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import sys

import click

from moceir import __version__


@click.command()
def info() -> None:
    """Say which devices, backends and weights there are, and why others are not."""
    import torch

    from moce_kernels import info as kernels
    from moceir.model import load_model
    from moceir.weights.bundled import BUNDLED

    click.echo(f"moceir {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    devices = [
        f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    click.echo(
        f"devices: cpu ({torch.get_num_threads()} threads){''.join(f', {d}' for d in devices)}"
    )
    for name in BUNDLED:
        parameters = sum(p.numel() for p in load_model(name).parameters())
        click.echo(f"bundled weights: {name}, {parameters:,} parameters")
    click.echo(kernels.report())
