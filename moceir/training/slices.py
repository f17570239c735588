"""Training in short sessions (slices), on machines that are available for minutes and keep nothing.

    python -m moceir.training.slices pictures FOLDER SMALL
    python -m moceir.training.slices train STATE --config FILE --data.train SMALL --max_minutes 9
    python -m moceir.training.slices weights STATE model.safetensors

``pictures`` makes training pictures small enough to carry. ``train`` takes up the run from the
folder STATE, if something is there, trains until ``max_minutes`` are over, and writes STATE every
two minutes and at the end: whoever carries STATE from machine to machine trains a network to the
end. ``weights`` writes the averaged weights of a STATE. What STATE keeps: ``packed``.
"""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image

from moceir import cli
from moceir.errors import CheckpointError, ConfigError, PictureError
from moceir.evaluation.metrics import psnr
from moceir.files import make_folder, whole_file
from moceir.model import MoCEIR, save_weights
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import to_tensor
from moceir.training.checkpoint import load_checkpoint, save_checkpoint
from moceir.training.config import TrainingConfig
from moceir.training.loop import Checkpoint
from moceir.training.options import parse
from moceir.training.packed import pack, read_set, write_set
from moceir.training.run import train
from moceir.weights.state import load_state

KEEP_MINUTES = 2
"""Between two writings of STATE."""


def run_slice(state: Path, config: TrainingConfig) -> Path:
    """One slice; returns the final weights, or the last checkpoint if there is more to do.

    Raises:
        ConfigError: ``max_minutes`` is missing, or there are several processes.
        CheckpointError: STATE cannot be read or written, or would be too large; the one before
            stays.
        MoceirError: as ``moceir.training.run.train``.
    """
    if config.max_minutes is None:
        raise ConfigError("a slice ends after max_minutes: give it")
    if config.devices * config.nodes > 1:
        raise ConfigError("slices train with one process: omit devices and nodes")
    last = config.run / "last.ckpt"
    kept = read_set(state)
    if kept is not None:
        saved = kept["training_config"]
        if (
            TrainingConfig(preset=saved["preset"], model=saved["model"]).network()
            != config.network()
        ):
            raise CheckpointError(
                f"{state} belongs to another network: train with its preset {saved['preset']} and "
                f"model {saved['model']}, or name another STATE"
            )
        here = load_checkpoint(last) if last.exists() else None
        if here is not None and _run_of(here) != _run_of(kept):
            raise CheckpointError(
                f"{last} belongs to a run with other settings than {state}: name another run"
            )
        if here is None or kept["global_step"] > here["global_step"]:
            save_checkpoint(kept, last)

    def keep(checkpoint: Checkpoint) -> None:
        write_set(state, pack(checkpoint), checkpoint["global_step"])

    return train(config, keep, KEEP_MINUTES)


def _run_of(checkpoint: Checkpoint) -> dict[str, object]:
    """The configuration, but for what a machine decides."""
    of_machine = ("run", "max_minutes", "accelerator", "precision", "cuda_graph")
    config = checkpoint["training_config"]
    data = {k: v for k, v in config["data"].items() if k not in ("train", "cache_mb", "workers")}
    return {k: v for k, v in config.items() if k not in of_machine} | {"data": data}


def state_weights(state: Path, target: Path) -> int:
    """Write the averaged weights of a STATE; returns the steps they were trained for.

    Raises:
        CheckpointError: there is no whole one.
        OSError: the file cannot be written.
    """
    kept = read_set(state)
    if kept is None:
        raise CheckpointError(f"{state}: no training state in it")
    saved = kept["training_config"]
    network = TrainingConfig(preset=saved["preset"], model=saved["model"]).network()
    model = MoCEIR(network)
    load_state(model, {k.removeprefix("model."): t for k, t in kept["state_dict"].items()})
    save_weights(model, target)
    return kept["global_step"]


class PackedPictures(NamedTuple):
    """What ``pack_pictures`` made."""

    pictures: int
    bytes: int
    scale: float
    """Of the sides, at most 1."""
    psnr: float
    """Mean, in dB, of the JPEG files beside the scaled pictures that they hold."""
    smallest: int
    """The least side of all, pixels."""


def pack_pictures(
    source: Path, target: Path, megabytes: float = 10, quality: int = 90
) -> PackedPictures:
    """Every picture of a folder as a JPEG, all scaled alike so that together they fit.

    Training pictures are clean ones: scaling down removes noise and JPEG blocks, while a lower
    ``quality`` would add blocks, which a network would learn to make.

    Args:
        target: a new or empty folder.
        megabytes: of all files together, 10^6 bytes.
        quality: of the JPEG files, which keep the full resolution of colours.

    Raises:
        PictureError: no pictures, one that cannot be read, or they do not fit whatever the scale.
        ConfigError: ``target`` has files in it.
    """
    paths = find_pictures(source)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target}: not empty: name another folder")
    budget, scale = megabytes * 1e6, 1.0
    for attempt in itertools.count():
        files = [_jpeg(open_rgb(path), scale, quality) for path in paths]
        total = sum(len(data) for data, _, _ in files)
        # Small pictures have few sizes, so that they may come no nearer.
        if total <= budget and (scale == 1 or total > 0.95 * budget or attempt > 8):
            break
        # Bytes go about with the area.
        scale = min(1, scale * math.sqrt(0.975 * budget / total))
        if min(side for _, _, side in files) < 16:
            raise PictureError(
                "the images do not fit at a useful size: give more megabytes or fewer images"
            )
    make_folder(target)
    for number, (data, _, _) in enumerate(files):
        with whole_file(target / f"{number:05d}.jpg") as temporary:
            temporary.write_bytes(data)
    losses, sides = [loss for _, loss, _ in files], [side for _, _, side in files]
    return PackedPictures(len(files), total, scale, float(np.mean(losses)), min(sides))


def _jpeg(picture: Image.Image, scale: float, quality: int) -> tuple[bytes, float, int]:
    """The file, its PSNR beside the scaled picture, and the smaller side."""
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture if scale >= 1 else picture.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
    loss = psnr(to_tensor(Image.open(file)), to_tensor(small))
    return file.getvalue(), min(loss, 100.0), min(small.size)


@click.group(cls=cli.Group, help=__doc__)
def main() -> None:
    pass


PATH = click.Path(path_type=Path)


@main.command("train", context_settings={"ignore_unknown_options": True})
@click.argument("state", type=PATH)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train_command(state: Path, arguments: tuple[str, ...]) -> None:
    """Train a slice of the run in STATE: --config FILE --max_minutes 9 [--NAME VALUE ...]."""

    result = run_slice(state, parse(arguments))
    for file in sorted(state.glob("state-*")):
        click.echo(f"{file}: {file.stat().st_size:,} bytes")
    click.echo(result)


@main.command("weights")
@click.argument("state", type=PATH)
@click.argument("target", type=PATH)
def weights_command(state: Path, target: Path) -> None:
    """Write the averaged weights of STATE to TARGET (.safetensors)."""
    click.echo(f"{target}: weights after {state_weights(state, target):,} steps")


@main.command("pictures")
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option("--mb", default=10.0, show_default=True, help="Of all files together.")
@click.option("--quality", default=90, show_default=True, type=click.IntRange(30, 95))
def pictures_command(source: Path, target: Path, mb: float, quality: int) -> None:
    """Write the pictures of SOURCE to TARGET, scaled down until they fit."""

    made = pack_pictures(source, target, mb, quality)
    click.echo(
        f"{target}: {made.pictures} images, {made.bytes / 1e6:.2f} MB, sides scaled by "
        f"{made.scale:.3f}, the smallest side {made.smallest} pixels; JPEG at {quality} leaves "
        f"{made.psnr:.1f} dB"
    )


if __name__ == "__main__":
    main()
