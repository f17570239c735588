"""What several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
PRECISION = click.Choice(["float32", "bfloat16", "float16"])


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises ClickException if something bears this name, unless it is to be replaced."""
    if path.exists() and not overwrite:
        raise click.ClickException(
            f"{path} is already there: choose another name or add --overwrite"
        )


def check_figures(outputs: tuple[Path, ...], overwrite: bool) -> None:
    """Refuse figures that cannot be written, before anything is computed."""
    try:
        from moceir.figures.draw import check_outputs
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'moceir[figures]'"
        ) from error
    check_outputs(outputs)
    for path in outputs:
        refuse_existing(path, overwrite)


def drawn(command: Any) -> Any:
    """The options of a command that draws."""
    command = click.option("--overwrite", is_flag=True, help="Replace what is already there.")(
        command
    )
    return click.option(
        "-o",
        "--output",
        "outputs",
        required=True,
        multiple=True,
        type=PATH,
        help="The figure, .png, .svg or .pdf; may be repeated.",
    )(command)
