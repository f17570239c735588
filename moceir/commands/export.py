"""``moceir export``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, refuse_existing


@click.command()
@click.argument("target", type=PATH)
@click.option("-m", "--model", help="Weights, as for restore. Default: the bundled ones.")
@click.option("--format", "kind", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option("--height", type=click.IntRange(1), default=256, show_default=True)
@click.option("--width", type=click.IntRange(1), default=256, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace the target if it is already there.")
def export(
    target: Path, model: str | None, kind: str, height: int, width: int, overwrite: bool
) -> None:
    """Write the network as an ONNX file for pictures of one size.

    Input "image" and output "restored" are (1, 3, height, width) float32, RGB, the input in [0, 1].
    """
    refuse_existing(target, overwrite)
    from moceir.inference.export import export_onnx
    from moceir.model import load_model
    from moceir.weights.bundled import BUNDLED

    export_onnx(load_model(model or BUNDLED[0]), target, height, width)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB, pictures of {width} x {height}")
