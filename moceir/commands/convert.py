"""``moceir convert``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import OVERWRITE, PATH


@click.command()
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option(
    "--preset", help="The network of a published checkpoint. Default: read off its tensors."
)
@OVERWRITE
def convert(source: Path, target: Path, preset: str | None, overwrite: bool) -> None:
    """Convert weights between our files and the published code's.

    TARGET.safetensors gets ours; TARGET.ckpt a Lightning checkpoint and TARGET.pth or .pt a bare
    state_dict for the published code.
    """
    from moceir.inference.export import convert_weights

    model = convert_weights(source, target, preset=preset, overwrite=overwrite)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"{target}: {parameters:,} parameters")
