"""The command ``moceir``."""

from __future__ import annotations

import os
from typing import Any

import click

from moceir import __version__
from moceir.commands.app import app
from moceir.commands.common import option_of, with_option
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
from moceir.errors import MoceirError
from moceir.files import shown

EXPECTED = (MoceirError, OSError, ValueError)


class _Commands(click.Group):
    """What a user can mend becomes one message and exit status 1; with --debug, a traceback.
    Ctrl-C is exit status 130, as of shells."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None
        except EXPECTED as error:
            if ctx.params.get("debug"):
                raise
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise click.ClickException(_message(error, command)) from error
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(
                f"unexpected {type(error).__name__}: {error} (moceir --debug shows the traceback)"
            ) from error


def _message(error: Exception, command: click.Command | None) -> str:
    if not (isinstance(error, OSError) and error.strerror):
        return with_option(str(error), command, getattr(error, "argument", None))
    text = f"{shown(error.filename)}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, FileExistsError):
        found = (option_of(command, name) for name in ("skip_existing", "overwrite"))
        if options := " or ".join(option for option in found if option):
            text += f": choose another name, or add {options}"
    return text


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
