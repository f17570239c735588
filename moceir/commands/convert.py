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
    "--preset", help="The published checkpoint's network. Default: inferred from its tensors."
)
@OVERWRITE
def convert(source: Path, target: Path, preset: str | None, overwrite: bool) -> None:
    """Convert weights from and to the published code's format.

    The suffix of TARGET decides: .safetensors is this package's format; for the published code,
    .ckpt is a Lightning checkpoint and .pth or .pt a bare state_dict.
    """
    from moceir.inference.export import convert_weights

    model = convert_weights(source, target, preset=preset, overwrite=overwrite)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"{target}: {parameters:,} parameters")
