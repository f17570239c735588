"""The command ``moceir``."""

from __future__ import annotations

from typing import Any

import click

from moceir import __version__
from moceir.commands.app import app
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
            raise click.ClickException(_message(error)) from error
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(
                f"unexpected {type(error).__name__}: {error} (moceir --debug shows where)"
            ) from error


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moceir")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def main(debug: bool) -> None:
    """All-in-one image restoration with complexity experts (MoCE-IR)."""


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
