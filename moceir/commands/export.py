"""``moceir export``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import MODEL, OVERWRITE, PATH


@click.command()
@click.argument("target", type=PATH)
@MODEL
@click.option("--format", "kind", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option("--height", type=click.IntRange(1), default=256, show_default=True)
@click.option("--width", type=click.IntRange(1), default=256, show_default=True)
@OVERWRITE
def export(
    target: Path, model: str | None, kind: str, height: int, width: int, overwrite: bool
) -> None:
    """Export the network to an ONNX file for images of one size.

    Input "image" and output "restored" are (1, 3, height, width) float32, RGB, the input in [0, 1].
    """
    from moceir.inference.export import export_onnx

    export_onnx(model, target, height, width, overwrite=overwrite)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB, images of {width} x {height}")
