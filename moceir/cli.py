"""The command ``moceir``."""

# Commands import what they need when they run: --help and --version answer without loading torch.
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moceir import __version__
from moceir.errors import MoceirError

if TYPE_CHECKING:
    from moceir.restore import Restorer

EXPECTED = (MoceirError, OSError, ValueError)
PATH = click.Path(path_type=Path)


class _Commands(click.Group):
    """What a user can mend becomes one message and exit status 1; with --debug, a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(_message(error)) from error


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moceir")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def main(debug: bool) -> None:
    """All-in-one image restoration with complexity experts (MoCE-IR)."""


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="INPUT...")
@click.option(
    "-o", "--output", required=True, type=PATH, help="A file for one picture, or a folder."
)
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "--device", help="Torch device, such as cpu or cuda:0. Default: a GPU if there is one."
)
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--overwrite", is_flag=True, help="Replace pictures that are already there.")
def restore(
    inputs: tuple[Path, ...],
    output: Path,
    model: str | None,
    device: str | None,
    precision: str | None,
    overwrite: bool,
) -> None:
    """Restore pictures, and all pictures in folders, whose tree is kept."""
    from rich.console import Console
    from rich.progress import Progress

    jobs = _jobs(inputs, output)
    if not overwrite:
        for _, target in jobs:
            if target.exists():
                raise click.ClickException(
                    f"{target} is already there: choose another output or add --overwrite"
                )
    from moceir.restore import Restorer

    restorer = Restorer(model, device, precision)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(_describe(restorer), markup=False)
    failures = []
    with Progress(console=console, transient=True) as progress:
        for source, target in progress.track(jobs, description="restoring"):
            try:
                console.print(_restore_one(restorer, source, target), markup=False)
            except EXPECTED as error:
                failures.append(_message(error))
    for failure in failures:
        console.print(f"not restored: {failure}", markup=False)
    if failures:
        raise SystemExit(1)


def _jobs(inputs: tuple[Path, ...], output: Path) -> list[tuple[Path, Path]]:
    """Every picture with the place of its result; two results of one name are refused."""
    from moceir.data.pictures import find_pictures

    as_file = len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir() and output.suffix
    if as_file:
        return [(inputs[0], output)]
    jobs = []
    for source in inputs:
        if source.is_dir():
            jobs += [(p, output / p.relative_to(source)) for p in find_pictures(source)]
        else:
            jobs.append((source, output / source.name))
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        if target in taken:
            raise click.ClickException(
                f"{taken[target]} and {source} would both become {target}: restore them apart"
            )
        taken[target] = source
    return jobs


def _restore_one(restorer: Restorer, source: Path, target: Path) -> str:
    """Restore one file; returns the line that says what was done."""
    import time

    from moceir.data.pictures import open_image, save_image

    start = time.perf_counter()
    image = open_image(source)
    restored = restorer.restore(image)
    save_image(restored.image, target)
    experts = " ".join(map(str, restored.experts))
    seconds = time.perf_counter() - start
    return f"{target}: {image.width} x {image.height}, experts {experts}, {seconds:.1f} s"


def _describe(restorer: Restorer) -> str:
    config = restorer.model.config
    experts = ", ".join(f"{i}: window {window}" for i, window in enumerate(config.windows, start=1))
    return (
        f"device {restorer.device}, backend {restorer.backend}, {restorer.precision}; "
        f"experts {experts}, one choice per decoder block"
    )


@main.command()
@click.argument("picture", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The degraded picture.")
@click.option("--kind", required=True, help="Such as rain,haze or noise:sigma=50; see docs.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same picture.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it is already there.")
def degrade(picture: Path, output: Path, kind: str, seed: int, overwrite: bool) -> None:
    """Degrade a clean picture with noise, rain, haze, blur, low light, snow or JPEG."""
    from moceir.data import degradations
    from moceir.data.pictures import open_rgb, save_image, to_image, to_tensor

    degradation = degradations.parse(kind)
    if output.exists() and not overwrite:
        raise click.ClickException(
            f"{output} is already there: choose another output or add --overwrite"
        )
    clean = to_tensor(open_rgb(picture))[None]
    degraded = degradations.degrade(clean, degradation, seed)[0]
    save_image(to_image(degraded), output)
    click.echo(f"{output}: {degradation}, seed {seed}")


@main.command()
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
    if target.exists() and not overwrite:
        raise click.ClickException(
            f"{target} is already there: choose another target or add --overwrite"
        )
    from moceir import config, weights

    if preset:
        model = weights.load_published(source, config.preset(preset))
    else:
        model = weights.load_model(source)
    save = weights.save_weights if target.suffix == ".safetensors" else weights.save_published
    save(model, target)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"{target}: {parameters:,} parameters")


@main.command(
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


@main.command()
def info() -> None:
    """Say which devices, backends and weights there are, and why others are not."""
    import torch

    from moce_kernels import info as kernels
    from moceir.weights import BUNDLED, load_model

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
