"""``moceir restore``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moceir.commands import files
from moceir.commands.common import DEVICE, MODEL, THREADS
from moceir.config import PRECISIONS

if TYPE_CHECKING:
    from moceir.inference.restorer import Restorer


@click.command()
@files.options
@MODEL
@click.option(
    "-t",
    "--tile",
    type=click.IntRange(min=0),
    help="Tile side in pixels; 0: never tile. Default: tile only if memory is short.",
)
@click.option(
    "--tile-overlap",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Pixels shared by neighbouring tiles.",
)
@DEVICE
@click.option(
    "--precision",
    type=click.Choice(("auto", *PRECISIONS)),
    default="auto",
    show_default=True,
    help="Precision of the activations. auto: bfloat16 for bundled weights on a GPU, else float32.",
)
@THREADS
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Blend between the original (0) and the restored image (1, the default).",
)
@click.option(
    "--light",
    type=click.FloatRange(0, 1),
    help="The same for light and colour alone: 0 holds the exposure. Default: --strength.",
)
@click.option(
    "--detail",
    type=click.FloatRange(0, 1),
    help="The same for detail alone, such as noise, rain and blur. Default: --strength.",
)
@click.option(
    "--only",
    metavar="KIND,...",
    help="Remove these and leave the rest; some of noise, rain, haze, motion_blur, defocus_blur, "
    "low_light, snow, jpeg.",
)
@click.option(
    "--auto",
    is_flag=True,
    help="With -m: detect which of these an image has, report them and remove only them. An image "
    "without any is copied as it is. The default, specialists, always does so.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=None,
    show_default="95; lossless images stay lossless",
    help="Quality of JPEG, WebP, AVIF and the like.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Number of reader threads, and of writer threads.",
)
@click.pass_context
def restore(
    ctx: click.Context,
    model: str | None,
    tile: int | None,
    tile_overlap: int,
    device: str | None,
    precision: str,
    threads: int | None,
    strength: float,
    light: float | None,
    detail: float | None,
    only: str | None,
    auto: bool,
    quality: int | None,
    jobs: int,
    **selection: Any,
) -> None:
    """Restore images, or whole folders of them, keeping the folder structure.

    INPUT is a file, a folder, a pattern in quotes such as 'in/*.jpg', or - for standard input.
    Inputs and output may also be URLs such as s3://bucket/folder.
    """
    if only is not None and auto:
        raise click.UsageError("--only and --auto both say what to remove: choose one", ctx)
    run = files.Run(ctx, "restored", **selection)
    if run.was_dry():
        return
    from moceir.inference.batch import restore_files
    from moceir.inference.settings import FOUND

    def load() -> Restorer:
        from moceir.inference.restorer import Restorer

        restorer = Restorer(model, device, precision, threads)
        run.say(_describe(restorer, precision))
        return restorer

    with run.until_stopped():
        restore_files(
            run.plan,
            load,
            tile=tile,
            tile_overlap=tile_overlap,
            strength=strength,
            light=light,
            detail=detail,
            only=FOUND if auto else only,
            quality=quality,
            jobs=jobs,
            report=run.add,
        )
    run.finish()


def _describe(restorer: Restorer, precision: str) -> str:
    windows = enumerate(restorer.model.config.windows, start=1)
    choice = "experts " + ", ".join(f"{i}: window {window}" for i, window in windows)
    choice += ", one choice per decoder block"
    if restorer.specialists is not None:
        choice = "specialists as each image needs them; " + choice
    on = f", threads {restorer.threads}" if restorer.device.type == "cpu" else ""
    # That it is not float32 is said where nobody asked for it, with what it costs.
    loss = (
        ", 0.01 dB below float32 on average" if precision != restorer.precision != "float32" else ""
    )
    return (
        f"device {restorer.device}{on}, backend {restorer.backend}, {restorer.precision}{loss}; "
        f"{choice}"
    )
