"""How programs on the command line report errors: ``moceir``, and those run with ``python -m``."""

from __future__ import annotations

from typing import Any

import click

from moceir.errors import is_expected
from moceir.files import described


class Command(click.Command):
    """An expected error becomes one message and exit status 1; with --debug, where there is such an
    option, a traceback. Ctrl-C is exit status 130, as of shells."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None
        except Exception as error:
            if not is_expected(error) or ctx.params.get("debug"):
                raise
            raise click.ClickException(_message(error, self.chosen(ctx))) from error

    def chosen(self, ctx: click.Context) -> click.Command | None:
        """The command whose options the user gave."""
        return self


class Group(Command, click.Group):
    """``Command`` for several commands in one."""

    def chosen(self, ctx: click.Context) -> click.Command | None:
        return self.get_command(ctx, ctx.invoked_subcommand or "")


def option_of(command: click.Command | None, argument: str | None) -> str | None:
    """How a command, or one of those in it, calls the argument of a function; None: it does not
    have it."""
    for parameter in getattr(command, "params", ()):
        if parameter.name == argument and isinstance(parameter, click.Option):
            return max(parameter.opts, key=len)
    for inner in getattr(command, "commands", {}).values():
        if found := option_of(inner, argument):
            return found
    return None


def with_option(message: str, command: click.Command | None, argument: str | None) -> str:
    """The message, and the option that a remedy would change."""
    option = option_of(command, argument)
    return f"{message} ({option})" if option else message


def _message(error: Exception, command: click.Command | None) -> str:
    if not isinstance(error, OSError):
        return with_option(str(error), command, getattr(error, "argument", None))
    text = described(error)
    if isinstance(error, FileExistsError):
        found = (option_of(command, name) for name in ("skip_existing", "overwrite"))
        if options := " or ".join(option for option in found if option):
            text += f": choose another name, or add {options}"
    return text
