"""What several commands have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from moceir.config import PRECISIONS
from moceir.files import check_free


class _Path(click.Path):
    """Not an empty one, as of a variable that is not set: pathlib takes it for the current
    folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty: give a name", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)
WEIGHTS = _Path()

MODEL = click.option(
    "-m",
    "--model",
    type=WEIGHTS,
    metavar="TEXT",
    help="Weights: bundled name, folder, file or user/repository. Default: the bundled "
    "specialists to restore, else compact.",
)
DEVICE = click.option(
    "--device", help="Torch device, such as cpu or cuda:0. Default: a GPU if there is one."
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the activations. Default: float32.",
)
THREADS = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads. Default: one per core."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace existing files.")


def extra(module: str, name: str) -> Any:
    """A module that needs the packages of the extra ``name``.

    Raises:
        ClickException: one of them is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'moceir[{name}]'"
        ) from error


def check_figures(outputs: tuple[Path, ...], overwrite: bool) -> None:
    """Reject figures that cannot be written, before anything is computed."""
    extra("moceir.figures.draw", "figures").check_outputs(outputs)
    for path in outputs:
        check_free(path, overwrite)


def drawn(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that draw figures."""
    return click.option(
        "-o",
        "--output",
        "outputs",
        required=True,
        multiple=True,
        type=PATH,
        help="The figure, .png, .svg or .pdf; may be repeated.",
    )(OVERWRITE(command))


def parts(text: str) -> list[str]:
    """Of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
