"""The command ``moceir``."""

from __future__ import annotations

import os
from typing import Any

import click

from moceir import __version__, cli
from moceir.commands.app import app
from moceir.commands.check import check
from moceir.commands.compare import compare
from moceir.commands.convert import convert
from moceir.commands.cost import cost
from moceir.commands.degrade import degrade
from moceir.commands.evaluate import evaluate
from moceir.commands.export import export
from moceir.commands.figures import figures
from moceir.commands.info import info
from moceir.commands.precompile import precompile
from moceir.commands.restore import restore
from moceir.commands.routes import routes
from moceir.commands.train import train
from moceir.errors import is_expected


class _Commands(cli.Group):
    """A fault of the program, too, is one message; with --debug, a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if is_expected(error) or ctx.params.get("debug"):
                raise
            raise click.ClickException(
                f"unexpected {type(error).__name__}: {error} (moceir --debug shows the traceback)"
            ) from error


SPIN_COUNT = "10000"
"""Some 0.1 ms."""


def _spin_briefly() -> None:
    """Let OpenMP's threads sleep soon while they wait for each other, unless the environment says
    otherwise. By default they spin for milliseconds, and take the cores from the threads that they
    wait for where other programs run too; threads that sleep at once are late on an idle machine
    (docs/restore.md, "Threads"). OpenMP reads the environment as PyTorch loads it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moceir")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """All-in-one image restoration with complexity experts (MoCE-IR)."""
    _spin_briefly()


for _command in (
    app,
    check,
    compare,
    convert,
    cost,
    degrade,
    evaluate,
    export,
    figures,
    info,
    precompile,
    restore,
    routes,
    train,
):
    main.add_command(_command)
