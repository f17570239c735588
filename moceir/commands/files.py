"""What commands that turn many pictures into others have in common: options, and the report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moceir.cli import with_option
from moceir.commands.common import OVERWRITE
from moceir.files import naming, shown

if TYPE_CHECKING:
    from moceir.inference.jobs import Outcome, Plan

LISTED = 1000
"""Failures that are repeated at the end. Of more, the reasons are said at once."""

_OPTIONS = (
    click.argument("inputs", nargs=-1, metavar="INPUT..."),
    click.option(
        "-o",
        "--output",
        required=True,
        help="A file (for one image) or a folder; for restore also - for standard output.",
    ),
    click.option(
        "--files-from",
        metavar="FILE",
        help="Take the images named in FILE (- for standard input), one a line. Names are relative "
        "to INPUT, which is one folder, by default the current one.",
    ),
    click.option(
        "-0", "--null", is_flag=True, help="Names in --files-from end with NUL: find -print0."
    ),
    click.option("--ext", help="Output format, such as png. Default: the input's."),
    click.option("--suffix", default="", help="Appended to output names, such as _restored."),
    click.option(
        "--skip-existing", is_flag=True, help="Skip images whose output exists, to resume."
    ),
    OVERWRITE,
    click.option(
        "-r/-R",
        "--recursive/--no-recursive",
        default=True,
        show_default=True,
        help="Descend into subfolders.",
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Take the I-th of N shares of the images: for N machines, 1/N to N/N.",
    ),
    click.option(
        "--manifest",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Note each image in this file, as a line of JSON. Repeat the command to resume.",
    ),
    click.option("--dry-run", is_flag=True, help="List what would be written, and do nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per image."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that passes them on to ``Run``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Run:
    """A plan, and reports on it: on standard error and, with --json, on standard output."""

    def __init__(
        self,
        ctx: click.Context,
        verb: str,
        *,
        inputs: tuple[str, ...],
        output: str,
        files_from: str | None,
        null: bool,
        dry_run: bool,
        as_json: bool,
        **selection: Any,
    ) -> None:
        if as_json and output == "-":
            raise click.ClickException("--json and -o - both write to standard output: choose one")
        if null and files_from is None:
            raise click.UsageError("--null is about --files-from", ctx)
        if selection["skip_existing"] and selection["overwrite"]:
            raise click.UsageError("--skip-existing and --overwrite: choose one", ctx)
        if not inputs and files_from is None:
            raise click.UsageError("Missing argument 'INPUT...'.", ctx)
        from rich.console import Console

        from moceir.inference.planning import plan_files

        self._command, self._verb = ctx.command, verb
        self.label = ""
        """What is said of a picture about which no more is known."""
        self._debug = bool(ctx.find_root().params.get("debug"))
        self._as_json, self._is_dry = as_json, dry_run
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._failures: list[str] = []
        self._failed = self._handled = 0
        files = None if files_from is None else _names(ctx, files_from, null)
        self.plan: Plan = plan_files(inputs or ["."], output, files=files, **selection)
        manifest = self.plan.manifest
        if manifest is not None and manifest.done:
            self.say(f"{shown(manifest.path)}: {manifest.done:,} images are done")

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def was_dry(self) -> bool:
        """Whether no more than a list is wanted, which is printed here."""
        if self._is_dry:
            from moceir.inference.jobs import Job, Outcome

            for item in self.plan:
                self._write(Outcome.of(item, "planned") if isinstance(item, Job) else item)
            self.finish()
        return self._is_dry

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """While pictures are worked on. Ctrl-C, and nobody who reads the lines of JSON, end the
        command, which says how to go on."""
        from rich import progress

        columns = progress.TextColumn("{task.description}"), progress.BarColumn()
        more = progress.MofNCompleteColumn(), progress.TimeRemainingColumn()
        if not self._debug:
            _quieten_pillow()
        with ExitStack() as stack:
            self._progress = progress.Progress(
                *columns,
                *more,
                console=self._console,
                transient=True,
                disable=not self._console.is_terminal,
            )
            stack.enter_context(self._progress)
            self._task = self._progress.add_task("images", total=self.plan.total)
            try:
                yield
                return
            except KeyboardInterrupt:
                status, reason = 130, ""
            except BrokenPipeError:
                status, reason = 1, " because standard output was closed"
        total = self.plan.total
        left = f": {total - self._handled} of {total} images left" if total is not None else ""
        after = "" if left else f" after {self._handled:,} images"
        resume = " with --skip-existing" if self.plan.manifest is None else ""
        self.say(f"stopped{reason}{left or after}; to resume, repeat the command{resume}")
        self.finish(status)

    def add(self, outcome: Outcome) -> None:
        """What became of a picture."""
        self._handled += 1
        self._progress.update(self._task, advance=1, total=self.plan.total)
        self._write(outcome)

    def _write(self, outcome: Outcome) -> None:
        if outcome.error:
            outcome.error = with_option(outcome.error, self._command, outcome.argument)
            if self._debug:
                self.say(outcome.traceback or "")
            elif ": unexpected " in outcome.error:
                outcome.error += " (moceir --debug shows where)"
            self._failed += 1
            if self._failed <= LISTED:
                self._failures.append(outcome.error)
            else:
                self.say(f"not {self._verb}: {outcome.error}")
        if not self._as_json:
            self.say(_line(outcome, self.label))
            return
        try:
            with naming(Path("standard output")):
                click.echo(json.dumps(outcome.to_dict()))
        except BrokenPipeError:
            # Write no more of them; what is buffered would fail again when Python ends.
            self._as_json = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise

    def finish(self, status: int = 0) -> None:
        """List the failures, and exit if there were any or a status is given."""
        for failure in self._failures:
            self.say(f"not {self._verb}: {failure}")
        if self._failed > LISTED:
            self.say(f"{self._failed:,} images were not {self._verb}, of which the first are here")
        if status or self._failed:
            raise SystemExit(status or 1)


def _names(ctx: click.Context, path: str, null: bool) -> Iterator[str]:
    """Of the pictures in a list, read as they are needed."""
    from moceir.inference.sources import read_list

    if path != "-":
        return read_list(ctx.with_resource(open(path, "rb")), null)
    if sys.stdin is None:
        raise click.ClickException("standard input is closed: pipe a list of files in")
    return read_list(sys.stdin.buffer, null)


def _quieten_pillow() -> None:
    """It warns of damage that is refused or noted."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _line(outcome: Outcome, label: str) -> str:
    """The message about one picture."""
    source, target = shown(outcome.input), shown(outcome.output)
    if outcome.status == "planned":
        return f"{source} -> {target}"
    if outcome.status == "skipped":
        return f"{target}: already there, skipped"
    if outcome.status == "failed":
        return f"{source}: failed"
    if outcome.experts is None:
        return "; ".join([f"{target}: {label}", *outcome.notes])
    parts = [f"{outcome.width} x {outcome.height}"]
    if outcome.tile:
        parts.append(f"{len(outcome.experts)} tiles of {outcome.tile}")
    blocks = (sorted(set(block)) for block in zip(*outcome.experts, strict=True))
    if outcome.experts:
        parts.append("experts " + " ".join("/".join(map(str, block)) for block in blocks))
    parts.append(f"{outcome.seconds:.1f} s")
    return "; ".join([f"{target}: {', '.join(parts)}", *outcome.notes])
