"""``moceir convert``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, refuse_existing


@click.command()
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option(
    "--preset", help="The network of a published checkpoint. Default: read off its tensors."
)
@click.option("--overwrite", is_flag=True, help="Replace the target if it is already there.")
def convert(source: Path, target: Path, preset: str | None, overwrite: bool) -> None:
    """Convert weights between our files and the published code's.

    TARGET.safetensors gets ours; TARGET.ckpt a Lightning checkpoint and TARGET.pth or .pt a bare
    state_dict for the published code.
    """
    if target.suffix not in (".safetensors", ".ckpt", ".pth", ".pt"):
        raise click.ClickException(f"{target}: name it .safetensors, .ckpt, .pth or .pt")
    refuse_existing(target, overwrite)
    from moceir import config
    from moceir import model as networks

    if preset:
        if not source.is_file():
            raise click.ClickException(f"{source}: not a file: name a published checkpoint")
        model = networks.load_published(source, config.preset(preset))
    else:
        model = networks.load_model(source)
    save = networks.save_weights if target.suffix == ".safetensors" else networks.save_published
    save(model, target)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"{target}: {parameters:,} parameters")
