"""``moceir restore``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moceir.cli import with_option
from moceir.commands.common import DEVICE, MODEL, OVERWRITE, PATH, PRECISION, THREADS
from moceir.files import shown

if TYPE_CHECKING:
    from moceir.inference.jobs import Outcome
    from moceir.inference.restorer import Restorer


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    help="A file (for one image), a folder, or - for standard output.",
)
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
@PRECISION
@THREADS
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Blend between the original (0) and the restored image (1, the default).",
)
@click.option("--ext", help="Output format, such as png. Default: the input's.")
@click.option("--suffix", default="", help="Appended to output names, such as _restored.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=None,
    show_default="95; lossless images stay lossless",
    help="Quality of JPEG, WebP, AVIF and the like.",
)
@click.option("--skip-existing", is_flag=True, help="Skip images whose output exists, to resume.")
@OVERWRITE
@click.option(
    "-r/-R",
    "--recursive/--no-recursive",
    default=True,
    show_default=True,
    help="Descend into subfolders.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Number of reader threads, and of writer threads.",
)
@click.option("--dry-run", is_flag=True, help="List what would be written, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per image.")
@click.pass_context
def restore(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    model: str | None,
    tile: int | None,
    tile_overlap: int,
    device: str | None,
    precision: str | None,
    threads: int | None,
    strength: float,
    ext: str | None,
    suffix: str,
    quality: int | None,
    skip_existing: bool,
    overwrite: bool,
    recursive: bool,
    jobs: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Restore images, or whole folders of them, keeping the folder structure.

    INPUT is a file, a folder, a pattern in quotes such as 'in/*.jpg', or - for standard input.
    """
    if as_json and str(output) == "-":
        raise click.ClickException("--json and -o - both write to standard output: choose one")
    from moceir.inference.jobs import Outcome, plan_files

    plan = plan_files(
        inputs,
        output,
        recursive=recursive,
        ext=ext,
        suffix=suffix,
        skip_existing=skip_existing,
        overwrite=overwrite,
    )
    report = _Report(ctx, as_json, len(plan.jobs))
    for outcome in plan.settled:
        report.write(outcome)
    if dry_run:
        for job in plan.jobs:
            report.write(Outcome.of(job, "planned"))
        return report.finish()
    if plan.jobs:
        from moceir.inference.batch import restore_files
        from moceir.inference.restorer import Restorer

        with report.until_stopped():
            restorer = Restorer(model, device, precision, threads)
            report.start(restorer)
            restore_files(
                plan,
                restorer,
                tile=tile,
                tile_overlap=tile_overlap,
                strength=strength,
                quality=quality,
                jobs=jobs,
                report=report.add,
            )
    report.finish()


class _Report:
    """Reports on standard error and, with --json, on standard output."""

    def __init__(self, ctx: click.Context, as_json: bool, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._command = ctx.command
        self._debug = bool(ctx.find_root().params.get("debug"))
        self._as_json = as_json
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(console=self._console, transient=True)
        self._failures: list[str] = []
        self._total, self._handled = total, 0

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """While pictures are restored. Ctrl-C, and nobody who reads the lines of JSON, end the
        command, which says how to go on."""
        if not self._debug:
            _quieten_pillow()
        with ExitStack() as self._open:
            try:
                yield
            except (KeyboardInterrupt, BrokenPipeError) as error:
                unread = isinstance(error, BrokenPipeError)
                self.say(
                    f"stopped{' because standard output was closed' if unread else ''}: "
                    f"{self._total - self._handled} of {self._total} images left; to "
                    "resume, repeat the command with --skip-existing"
                )
                self.finish(status=1 if unread else 130)

    def start(self, restorer: Restorer) -> None:
        self.say(_describe(restorer))
        self._open.enter_context(self._progress)
        self._task = self._progress.add_task("restoring", total=self._total)

    def add(self, outcome: Outcome) -> None:
        """What became of a picture."""
        self._handled += 1
        self._progress.advance(self._task)
        self.write(outcome)

    def write(self, outcome: Outcome) -> None:
        if outcome.error:
            outcome.error = with_option(outcome.error, self._command, outcome.argument)
            if self._debug:
                self.say(outcome.traceback or "")
            elif ": unexpected " in outcome.error:
                outcome.error += " (moceir --debug shows where)"
            self._failures.append(outcome.error)
        if not self._as_json:
            self.say(_line(outcome))
            return
        try:
            click.echo(json.dumps(outcome.to_dict()))
        except BrokenPipeError:
            # Write no more of them; what is buffered would fail again when Python ends.
            self._as_json = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise

    def finish(self, status: int = 0) -> None:
        """List the failures, and exit if there were any or a status is given."""
        for failure in self._failures:
            self.say(f"not restored: {failure}")
        if status or self._failures:
            raise SystemExit(status or 1)


def _quieten_pillow() -> None:
    """It warns of damage that is refused or noted."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _line(outcome: Outcome) -> str:
    """The message about one picture."""
    source, target = shown(outcome.input), shown(outcome.output)
    if outcome.status == "planned":
        return f"{source} -> {target}"
    if outcome.status == "skipped":
        return f"{target}: already there, skipped"
    if outcome.status == "failed":
        return f"{source}: failed"
    assert outcome.experts is not None  # it is restored
    parts = [f"{outcome.width} x {outcome.height}"]
    if outcome.tile:
        parts.append(f"{len(outcome.experts)} tiles of {outcome.tile}")
    blocks = (sorted(set(block)) for block in zip(*outcome.experts, strict=True))
    parts.append("experts " + " ".join("/".join(map(str, block)) for block in blocks))
    parts.append(f"{outcome.seconds:.1f} s")
    return "; ".join([f"{target}: {', '.join(parts)}", *outcome.notes])


def _describe(restorer: Restorer) -> str:
    config = restorer.model.config
    experts = ", ".join(f"{i}: window {window}" for i, window in enumerate(config.windows, start=1))
    on = f", threads {restorer.threads}" if restorer.device.type == "cpu" else ""
    return (
        f"device {restorer.device}{on}, backend {restorer.backend}, {restorer.precision}; "
        f"experts {experts}, one choice per decoder block"
    )
