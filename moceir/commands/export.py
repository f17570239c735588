"""``moceir export``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import MODEL, OVERWRITE, PATH


@click.command()
@click.argument("target", type=PATH)
@MODEL
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "pt2"]),
    help="ONNX, or PyTorch's torch.export. Default: by TARGET's suffix.",
)
@OVERWRITE
def export(target: Path, model: str | None, kind: str | None, overwrite: bool) -> None:
    """Export the network to a file that other programs run without this package.

    Input "image" and output "restored" are (batch, 3, height, width) float32, RGB in [0, 1], of any
    size. The file is compared with the network on three sizes before it gets its name.
    """
    if str(target) == "-":
        raise click.UsageError("the exported network is checked as a file: name one in place of -")
    kind = kind or target.suffix[1:].lower()
    if kind not in ("onnx", "pt2"):
        raise click.UsageError(f"{target}: name it .onnx or .pt2, or give --format")
    from moceir.inference.export import export_onnx, export_pt2

    exported = (export_onnx if kind == "onnx" else export_pt2)(model, target, overwrite=overwrite)
    click.echo(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB, for images of any size in batches of any "
        f"size; differs from the network by at most {exported.difference:.1g}"
    )
