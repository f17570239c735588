"""``moceir restore``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moceir.commands.common import PATH, PRECISION

if TYPE_CHECKING:
    from moceir.commands.jobs import Job, Outcome
    from moceir.inference.restorer import Restorer


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="INPUT...")
@click.option(
    "-o", "--output", required=True, type=PATH, help="A file for one picture, a folder, or -."
)
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "-t",
    "--tile",
    type=click.IntRange(min=0),
    help="Side of the tiles; 0: the whole picture or nothing. Default: whole, tiles if need be.",
)
@click.option(
    "--tile-overlap", type=click.IntRange(min=0), help="Pixels that tiles share. Default: 64."
)
@click.option(
    "--device", help="Torch device, such as cpu or cuda:0. Default: a GPU if there is one."
)
@click.option("--precision", type=PRECISION)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="0: as it was; 1, the default: fully restored; between: a blend.",
)
@click.option("--ext", help="Format of the results, such as png. Default: that of the input.")
@click.option("--suffix", default="", help="Added to the names of the results, such as _restored.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=None,
    show_default="95; what came lossless stays so",
    help="Of JPEG, WebP, AVIF and the like.",
)
@click.option("--skip-existing", is_flag=True, help="Leave out pictures with a result: go on.")
@click.option("--overwrite", is_flag=True, help="Replace results that are already there.")
@click.option(
    "-r/-R",
    "--recursive/--no-recursive",
    default=True,
    show_default=True,
    help="Also the folders in a folder.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Threads that read pictures, and that write them, meanwhile.",
)
@click.option("--dry-run", is_flag=True, help="Say what would become what, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each picture.")
@click.pass_context
def restore(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    model: str | None,
    tile: int | None,
    tile_overlap: int | None,
    device: str | None,
    precision: str | None,
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
    """Restore pictures, and all pictures in folders, whose tree is kept.

    INPUT is a file, a folder, a pattern in quotes such as 'in/*.jpg', or - for standard input.
    """
    if skip_existing and overwrite:
        raise click.ClickException("--skip-existing and --overwrite: choose one")
    if as_json and str(output) == "-":
        raise click.ClickException("--json and -o - would both fill standard output: choose one")
    from moceir.commands import jobs as planning
    from moceir.inference import tiles

    overlap = tiles.OVERLAP if tile_overlap is None else tile_overlap
    tiles.check(tile or 0, overlap)
    planned, missing = planning.plan(inputs, output, recursive=recursive, ext=ext, suffix=suffix)
    report = _Report(as_json)
    for outcome in missing:
        report.add_planned(outcome)
    there: list[Job] = []
    left: list[Job] = []
    failed: dict[Job, str] = {}
    for job in planned:
        try:
            (there if job.is_done() and not overwrite else left).append(job)
        except OSError as error:
            failed[job] = f"{planning.shown(job.target)}: {error.strerror}"
    if there and not skip_existing:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise click.ClickException(
            f"{planning.shown(there[0].target)} is already there{more}: choose another output, "
            "add --skip-existing to go on, or --overwrite"
        )
    for job, reason in failed.items():
        report.add_job(job, "failed", reason)
    for job in there:
        report.add_job(job, "skipped")
    if dry_run:
        for job in left:
            report.add_job(job, "planned")
    elif left:
        _restore_all(
            ctx,
            report,
            left,
            model,
            device,
            precision,
            {
                "tile": tile,
                "tile_overlap": overlap,
                "strength": strength,
                "ext": ext,
                "quality": quality,
                "overwrite": overwrite,
                "skip_existing": skip_existing,
                "jobs": jobs,
            },
        )
    report.finish()


def _restore_all(
    ctx: click.Context,
    report: _Report,
    jobs: list[Job],
    model: str | None,
    device: str | None,
    precision: str | None,
    settings: dict[str, Any],
) -> None:
    import logging
    import traceback
    import warnings

    from moceir.commands.pipeline import Pipeline, Settings
    from moceir.inference.restorer import Restorer

    debug = bool(ctx.find_root().params.get("debug"))
    if not debug:
        # Of damage that is refused or noted.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        logging.getLogger("PIL").setLevel(logging.CRITICAL)

    def show(error: Exception) -> None:
        if debug:
            traceback.print_exception(error)

    pipeline = None
    try:
        restorer = Restorer(model, device, precision)
        report.say(_describe(restorer))
        pipeline = Pipeline(restorer, jobs, Settings(**settings), show)
        with report.progress(len(jobs)):
            for outcome in pipeline:
                report.add(outcome)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        reader_left = isinstance(error, BrokenPipeError)
        if reader_left:
            report.close_json()
        for outcome in pipeline.stop() if pipeline else ():
            report.add(outcome)
        left = len(jobs) - report.handled
        report.say(
            f"stopped{', for nobody reads standard output' if reader_left else ''}: {left} of "
            f"{len(jobs)} pictures left; the same command with --skip-existing goes on"
        )
        report.finish(status=1 if reader_left else 130)


class _Report:
    """Tells people on standard error and, with --json, programs on standard output."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._as_json = as_json
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(console=self._console, transient=True)
        self._failures: list[str] = []
        self.handled = 0
        """Pictures restored or failed."""

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def failed(self, failure: str) -> None:
        self._failures.append(failure)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        with self._progress:
            self._task = self._progress.add_task("restoring", total=total)
            yield

    def add_job(self, job: Job, status: str, error: str | None = None) -> None:
        from moceir.commands.jobs import Outcome

        self.add_planned(Outcome.of(job, status, error=error))

    def add_planned(self, outcome: Outcome) -> None:
        """What is known of a picture before any is restored."""
        self._write(outcome)

    def add(self, outcome: Outcome) -> None:
        self.handled += 1
        self._progress.advance(self._task)
        self._write(outcome)

    def _write(self, outcome: Outcome) -> None:
        if outcome.error:
            self.failed(outcome.error)
        if self._as_json:
            click.echo(json.dumps(outcome.to_dict()))
        else:
            self.say(_line(outcome))

    def close_json(self) -> None:
        """Write no more lines of JSON; what is buffered would fail again when Python ends."""
        self._as_json = False
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def finish(self, status: int = 0) -> None:
        """Names the failures and ends the command if there were any, or with that status."""
        for failure in self._failures:
            self.say(f"not restored: {failure}")
        if status:
            raise SystemExit(status)
        if self._failures:
            raise SystemExit(1)


def _line(outcome: Outcome) -> str:
    """What a person is told about one picture."""
    from moceir.commands.jobs import shown

    source, target = shown(Path(outcome.input)), shown(Path(outcome.output))
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
    return (
        f"device {restorer.device}, backend {restorer.backend}, {restorer.precision}; "
        f"experts {experts}, one choice per decoder block"
    )
