"""``moceir precompile``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import click

from moceir.commands.common import WEIGHTS
from moceir.config import PRECISIONS


@click.command()
@click.option(
    "--preset",
    "name",
    help="The network: compact (the default), moce_ir_s or moce_ir.",
)
@click.option(
    "-m",
    "--model",
    type=WEIGHTS,
    metavar="TEXT",
    help="Instead of --preset: weights, as for restore.",
)
@click.option(
    "--shape",
    default="1x3x720x1280",
    show_default=True,
    help="Shape of a batch: images x 3 x height x width.",
)
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=["float32"],
    show_default=True,
    help="Precision of the activations; may be repeated, like --products.",
)
@click.option(
    "--products",
    type=click.Choice(["default", "tf32", "ieee"]),
    multiple=True,
    default=["default"],
    show_default=True,
    help="The setting of torch.backends.cuda.matmul.fp32_precision; float32 only.",
)
@click.option("--train", is_flag=True, help="A training step instead of inference.")
@click.option(
    "--arch", help="Compute capability, such as 9.0. Default: that of this machine's GPU."
)
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one per CPU.")
@click.option(
    "--library",
    type=click.Choice(["with", "without", "both"]),
    default="both",
    show_default=True,
    help="Machines with the CUDA library need fewer Triton kernels.",
)
def precompile(
    name: str | None,
    model: str | None,
    shape: str,
    dtypes: tuple[str, ...],
    products: tuple[str, ...],
    train: bool,
    arch: str | None,
    jobs: int | None,
    library: str,
) -> None:
    """Compile a network's Triton kernels ahead of time into Triton's cache.

    No GPU is needed. The cache is TRITON_CACHE_DIR, by default ~/.triton/cache. Another machine
    with the same versions of moceir, Triton and Python can use it at the same path.
    """
    if model and name:
        raise click.ClickException("--model and --preset: choose one")
    from moceir.config import preset
    from moceir.model import load_model
    from moceir.training.precompile import batch_shape, precompile_network

    done = precompile_network(
        load_model(model).config if model else preset(name or "compact"),
        batch_shape(shape),
        dtypes,
        products,
        train=train,
        arch=arch,
        jobs=jobs,
        library={"both": None}.get(library, library == "with"),
    )
    click.echo(done.summary())
