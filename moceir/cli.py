"""The command ``moceir``."""

# Commands import what they need when they run: --help and --version answer without loading torch.
from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moceir import __version__
from moceir.commands.precompile import precompile
from moceir.errors import MoceirError

if TYPE_CHECKING:
    from moceir.restore import Restorer
    from moceir.tool.jobs import Job, Outcome

EXPECTED = (MoceirError, OSError, ValueError)
PATH = click.Path(path_type=Path)


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


main.add_command(precompile)


@main.command()
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
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
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
    default=95,
    show_default=True,
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
    quality: int,
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
    from moceir.tool import jobs as planning
    from moceir.tool import tiles

    overlap = tiles.OVERLAP if tile_overlap is None else tile_overlap
    tiles.check(tile or 0, overlap)
    planned, missing = planning.plan(inputs, output, recursive=recursive, ext=ext, suffix=suffix)
    report = _Report(as_json)
    for failure in missing:
        report.failed(failure)
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

    from PIL import Image

    from moceir.restore import Restorer
    from moceir.tool.pipeline import Pipeline, Settings

    debug = bool(ctx.find_root().params.get("debug"))
    Image.MAX_IMAGE_PIXELS = None  # moceir.tool.codec has limits of its own
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
    except KeyboardInterrupt:
        for outcome in pipeline.stop() if pipeline else ():
            report.add(outcome)
        left = len(jobs) - report.handled
        report.say(
            f"stopped: {left} of {len(jobs)} pictures left; the same command with --skip-existing "
            "goes on"
        )
        report.finish(stopped=True)


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
        from moceir.tool.jobs import Outcome

        self._write(Outcome.of(job, status, error=error))

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

    def finish(self, stopped: bool = False) -> None:
        """Names the failures and ends the command if there were any."""
        for failure in self._failures:
            self.say(f"not restored: {failure}")
        if stopped:
            raise SystemExit(130)
        if self._failures:
            raise SystemExit(1)


def _line(outcome: Outcome) -> str:
    """What a person is told about one picture."""
    from moceir.tool.jobs import shown

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


@main.command()
@click.argument("picture", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The degraded picture.")
@click.option("--kind", required=True, help="Such as rain,haze or noise:sigma=50; see docs.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same picture.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it is already there.")
def degrade(picture: Path, output: Path, kind: str, seed: int, overwrite: bool) -> None:
    """Degrade a clean picture with noise, rain, haze, blur, low light, snow or JPEG."""
    from moceir.data import degradations
    from moceir.data.pictures import open_rgb, save_image, to_image, to_tensor

    degradation = degradations.parse(kind)
    if output.exists() and not overwrite:
        raise click.ClickException(
            f"{output} is already there: choose another output or add --overwrite"
        )
    clean = to_tensor(open_rgb(picture))[None]
    degraded = degradations.degrade(clean, degradation, seed)[0]
    save_image(to_image(degraded), output)
    click.echo(f"{output}: {degradation}, seed {seed}")


@main.command()
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option(
    "--preset", help="The network of a published checkpoint. Default: read off its tensors."
)
@click.option("--overwrite", is_flag=True, help="Replace the target if it is already there.")
def convert(source: Path, target: Path, preset: str | None, overwrite: bool) -> None:
    """Convert weights between our files and the published code's.

    TARGET.safetensors gets ours; TARGET.ckpt a Lightning checkpoint and TARGET.pth or .pt a bare
    state_dict for the published code.
    """
    if target.suffix not in (".safetensors", ".ckpt", ".pth", ".pt"):
        raise click.ClickException(f"{target}: name it .safetensors, .ckpt, .pth or .pt")
    if target.exists() and not overwrite:
        raise click.ClickException(
            f"{target} is already there: choose another target or add --overwrite"
        )
    from moceir import config, weights

    if preset:
        model = weights.load_published(source, config.preset(preset))
    else:
        model = weights.load_model(source)
    save = weights.save_weights if target.suffix == ".safetensors" else weights.save_published
    save(model, target)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"{target}: {parameters:,} parameters")


@main.command()
@click.argument("target", type=PATH)
@click.option("-m", "--model", help="Weights, as for restore. Default: the bundled ones.")
@click.option("--format", "kind", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option("--height", type=click.IntRange(1), default=256, show_default=True)
@click.option("--width", type=click.IntRange(1), default=256, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace the target if it is already there.")
def export(
    target: Path, model: str | None, kind: str, height: int, width: int, overwrite: bool
) -> None:
    """Write the network as an ONNX file for pictures of one size.

    Input "image" and output "restored" are (1, 3, height, width) float32, RGB, the input in [0, 1].
    """
    if target.exists() and not overwrite:
        raise click.ClickException(
            f"{target} is already there: choose another target or add --overwrite"
        )
    from moceir.export import export_onnx
    from moceir.weights.bundled import BUNDLED
    from moceir.weights.load import load_model

    export_onnx(load_model(model or BUNDLED[0]), target, height, width)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB, pictures of {width} x {height}")


@main.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a network: moceir train --config configs/compact.yaml [--NAME VALUE ...]."""
    try:
        from moceir.training import run
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'moceir[train]'"
        ) from error
    click.echo(run.main(arguments))


@main.command()
@click.option(
    "-m",
    "--model",
    help="Bundled name, folder, weights file or published checkpoint; or peer:bm3d and the like.",
)
@click.option("--benchmarks", default="", help="Such as cbsd68,rain100l,sots,gopro,lolv1,cdd11.")
@click.option("--data", type=PATH, help="The folder that holds the data sets.")
@click.option(
    "--pair",
    "pairs",
    type=(PATH, PATH),
    multiple=True,
    metavar="DEGRADED CLEAN",
    help="Two folders whose pictures have the same names; may be repeated.",
)
@click.option(
    "--protocol",
    type=click.Choice(["published", "promptir"]),
    default="published",
    show_default=True,
    help="That of the published MoCE-IR, or that of AirNet and PromptIR.",
)
@click.option("--sigmas", default="15,25,50", show_default=True, help="Of the denoising sets.")
@click.option("--seed", default=0, show_default=True, help="Of their noise.")
@click.option(
    "-t", "--tile", type=click.IntRange(min=0), default=0, help="Default: whole pictures."
)
@click.option("--device", help="Torch device. Default: a GPU if there is one.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--save-pictures", is_flag=True, help="Also write the restored pictures, as PNG.")
@click.option("-o", "--output", required=True, type=PATH, help="Folder of the results.")
@click.option("--overwrite", is_flag=True, help="Replace results that are already there.")
def evaluate(
    model: str | None,
    benchmarks: str,
    data: Path | None,
    pairs: tuple[tuple[Path, Path], ...],
    protocol: str,
    sigmas: str,
    seed: int,
    tile: int,
    device: str | None,
    precision: str | None,
    save_pictures: bool,
    output: Path,
    overwrite: bool,
) -> None:
    """Measure a network, or a classical method, on the benchmarks of the literature.

    OUTPUT gets pictures.csv, results.json, results.md with the papers' rows beside ours, and
    report.html with a before/after slider.
    """
    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    if not names and not pairs:
        raise click.ClickException("name --benchmarks, or two folders with --pair")
    if (output / "results.json").exists() and not overwrite:
        raise click.ClickException(
            f"{output / 'results.json'} is already there: choose another folder or add --overwrite"
        )
    levels = _numbers("--sigmas", sigmas)
    from moceir.data.pictures import save_image, to_image
    from moceir.evaluation import protocol as protocols
    from moceir.evaluation.lpips import find_lpips
    from moceir.evaluation.methods import find_method
    from moceir.evaluation.report import Examples, report
    from moceir.evaluation.run import as_markdown, measure, write_results
    from moceir.files import whole_file

    found = protocols.benchmarks(names, data, levels, pairs)
    method = find_method(model, device, precision)
    lpips = find_lpips(method.device)
    about = {
        "model": model or "the bundled weights",
        "protocol": protocol,
        "seed": seed,
        **method.environment,
        "lpips": f"not measured, {lpips}" if isinstance(lpips, str) else "VGG",
    }
    rows, examples = [], Examples()
    for benchmark in found:
        click.echo(f"{benchmark.title}: {len(benchmark.pairs)} pictures", err=True)
        for measurement, degraded, restored, _ in measure(
            method,
            benchmark,
            protocols.PROTOCOLS[protocol],
            seed=seed,
            tile=tile,
            lpips=None if isinstance(lpips, str) else lpips,
        ):
            rows.append(measurement)
            examples.add(measurement, degraded, restored)
            if save_pictures:
                folder = output / "pictures" / benchmark.name.replace("/", "_")
                save_image(to_image(restored), (folder / measurement.picture).with_suffix(".png"))
    write_results(rows, about, output)
    with whole_file(output / "report.html") as temporary:
        temporary.write_text(report(rows, about, examples), encoding="utf-8")
    click.echo(as_markdown(rows, about))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.ClickException(f"{option} {text}: give whole numbers with commas") from None


def _outputs(outputs: tuple[Path, ...], overwrite: bool) -> None:
    """Refuse figures that cannot be written, before anything is computed."""
    try:
        from moceir.figures.draw import check_outputs
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'moceir[figures]'"
        ) from error
    check_outputs(outputs)
    for path in outputs:
        if path.exists() and not overwrite:
            raise click.ClickException(
                f"{path} is already there: choose another output or add --overwrite"
            )


def _drawn(command: Any) -> Any:
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


@main.command()
@click.argument("pictures", nargs=-1, type=PATH)
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "--kinds", default="", help="Put on clean PICTURES, such as noise,rain. Default: all."
)
@click.option("--benchmarks", default="", help="Instead of PICTURES: as for moceir evaluate.")
@click.option("--data", type=PATH, help="The folder that holds the data sets.")
@click.option(
    "--training",
    type=(str, PATH),
    multiple=True,
    metavar="NAME RUN",
    help="Instead: how experts were used in a training run; may be repeated.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--device", help="Torch device. Default: a GPU if there is one.")
@_drawn
def routes(
    pictures: tuple[Path, ...],
    model: str | None,
    kinds: str,
    benchmarks: str,
    data: Path | None,
    training: tuple[tuple[str, Path], ...],
    seed: int,
    device: str | None,
    outputs: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Draw which experts each degradation takes at each decoder block, as the paper's figure 5.

    PICTURES are clean ones, or folders of them, which are degraded in every way of --kinds.
    """
    if bool(pictures) + bool(benchmarks) + bool(training) != 1:
        raise click.ClickException("give clean PICTURES, or --benchmarks, or --training")
    _outputs(outputs, overwrite)
    from moceir.figures.draw import save

    if training:
        from moceir.figures.routes import usage_figure
        from moceir.training.usage import read_usage

        runs = {name: read_usage(run / "experts.csv") for name, run in training}
        save(usage_figure(runs), outputs)
        return
    from moceir.data import degradations
    from moceir.data.pictures import find_pictures, open_rgb, to_tensor
    from moceir.evaluation import protocol
    from moceir.figures.routes import collect, routes_figure
    from moceir.restore import Restorer

    counts = {}
    if benchmarks:
        published = protocol.PROTOCOLS["published"]
        found = protocol.benchmarks(benchmarks.split(","), data)
        restorer = Restorer(model, device)
        for b in found:
            images = (b.load(pair, published, seed)[0] for pair in b.pairs)
            counts[b.name] = collect(restorer, images)
    else:
        each = [degradations.parse(k) for k in kinds.split(",") if k] or [
            degradations.parse(k) for k in degradations.KINDS
        ]
        paths = [f for p in pictures for f in (find_pictures(p) if p.is_dir() else [p])]
        restorer = Restorer(model, device)
        for degradation in each:
            images = (
                degradations.degrade(to_tensor(open_rgb(path))[None], degradation, seed, i)[0]
                for i, path in enumerate(paths)
            )
            counts[str(degradation).partition(":")[0]] = collect(restorer, images)
    save(routes_figure(counts), outputs)
    for label, table in counts.items():
        taken = "  ".join("/".join(str(n) for n in block) for block in table.tolist())
        click.echo(f"{label}: {taken}")


@main.group()
def figures() -> None:
    """Draw maps of errors, and quality against cost, as the paper's figures 3 and 4."""


@figures.command()
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "--pair",
    "pairs",
    type=(PATH, PATH),
    multiple=True,
    required=True,
    metavar="DEGRADED CLEAN",
    help="A degraded picture and the clean one; may be repeated.",
)
@click.option("--device", help="Torch device. Default: a GPU if there is one.")
@_drawn
def errors(
    model: str | None,
    pairs: tuple[tuple[Path, Path], ...],
    device: str | None,
    outputs: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Pictures beside the maps of their errors."""
    _outputs(outputs, overwrite)
    from moceir.data.datasets import Pair, check_sizes
    from moceir.data.pictures import open_rgb, to_tensor
    from moceir.figures.draw import save
    from moceir.figures.errors import Example, errors_figure
    from moceir.restore import Restorer

    opened = []
    for degraded, clean in pairs:
        images = open_rgb(degraded), open_rgb(clean)
        check_sizes(Pair(clean, degraded), images[0].size, images[1].size)
        opened.append((degraded.stem, to_tensor(images[0]), to_tensor(images[1])))
    restorer = Restorer(model, device)
    examples = [Example(name, bad, restorer(bad[None])[0], good) for name, bad, good in opened]
    save(errors_figure(examples), outputs)


@figures.command()
@click.argument("results", nargs=-1, required=True, type=PATH, metavar="RESULTS.JSON...")
@click.option(
    "--setting", type=click.Choice(["aio3", "aio5", "cdd11"]), default="aio5", show_default=True
)
@_drawn
def quality(
    results: tuple[Path, ...], setting: str, outputs: tuple[Path, ...], overwrite: bool
) -> None:
    """Quality against parameters and compute, of results of moceir evaluate and of the papers."""
    _outputs(outputs, overwrite)
    from moceir.figures.draw import save
    from moceir.figures.quality import quality_figure, read_result

    save(quality_figure([read_result(path) for path in results], setting), outputs)


@main.command()
@click.argument("pictures", nargs=-1, type=PATH)
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option("--preset", help="Instead: a network with random weights, such as moce_ir_s.")
@click.option("--size", default="224x224", show_default=True, help="Width x height.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(0), help="To time; or 0.")
@click.option("--device", help="Torch device. Default: a GPU if there is one.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def cost(
    pictures: tuple[Path, ...],
    model: str | None,
    preset: str | None,
    size: str,
    runs: int,
    device: str | None,
    precision: str | None,
    as_json: bool,
) -> None:
    """Say what a network costs: parameters, multiply-accumulates by route, measured time.

    With PICTURES also the route that each takes and its cost.
    """
    if model and preset:
        raise click.ClickException("--model and --preset: choose one")
    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        width = height = 0
    if min(width, height) < 1:
        raise click.ClickException(f"--size {size}: give width x height, such as 224x224")
    import torch

    from moceir.config import preset as configuration
    from moceir.data.pictures import open_rgb, to_tensor
    from moceir.evaluation import cost as costs
    from moceir.model import MoCEIR
    from moceir.restore import Restorer

    network = MoCEIR(configuration(preset)) if preset else None
    images = [(path, to_tensor(open_rgb(path))) for path in pictures]
    restorer = Restorer(network or model, device, precision)
    config = restorer.model.config
    counted, extra = (count(config, height, width) for count in (costs.cost, costs.extras))
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in restorer.model.parameters()),
        "width": width,
        "height": height,
        "cheapest": counted.cheapest,
        "dearest": counted.dearest,
        "cheapest_with_extras": counted.cheapest + extra.cheapest,
        "dearest_with_extras": counted.dearest + extra.dearest,
        "pictures": [],
    }
    if runs:
        noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
        found["seconds"] = costs.seconds(restorer, noise, runs)
        found["device"] = str(restorer.device)
        found["threads"] = torch.get_num_threads()
        found["backend"] = restorer.backend
    for path, image in images:
        _, run = restorer.restore_pixels(image.permute(1, 2, 0).contiguous().numpy(), tile=0)
        of_size = costs.cost(config, *image.shape[1:])
        found["pictures"].append(
            {
                "picture": str(path),
                "width": image.shape[2],
                "height": image.shape[1],
                "experts": run.experts,
                "macs": of_size.route([[expert - 1] for expert in run.experts]),
                "cheapest": of_size.cheapest,
                "dearest": of_size.dearest,
            }
        )
    click.echo(json.dumps(found, indent=1) if as_json else _cost_lines(found))


def _cost_lines(found: dict[str, Any]) -> str:
    def giga(number: float) -> str:
        return f"{number / 1e9:.2f} G"

    lines = [
        f"parameters: {found['parameters']:,}",
        f"multiply-accumulates at {found['width']} x {found['height']}: "
        f"{giga(found['cheapest'])} by the cheapest route, {giga(found['dearest'])} by the dearest",
        f"with norms and Fourier transforms: {giga(found['cheapest_with_extras'])} to "
        f"{giga(found['dearest_with_extras'])}",
    ]
    if "seconds" in found:
        lines.append(
            f"measured: {found['seconds']:.3f} s on {found['device']} ({found['threads']} threads, "
            f"backend {found['backend']})"
        )
    for p in found["pictures"]:
        lines.append(
            f"{p['picture']}: {p['width']} x {p['height']}, experts "
            f"{' '.join(map(str, p['experts']))}, {giga(p['macs'])} (cheapest route "
            f"{giga(p['cheapest'])}, dearest {giga(p['dearest'])})"
        )
    return "\n".join(lines)


@main.command()
def info() -> None:
    """Say which devices, backends and weights there are, and why others are not."""
    import torch

    from moce_kernels import info as kernels
    from moceir.weights import BUNDLED, load_model

    click.echo(f"moceir {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    devices = [
        f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    click.echo(
        f"devices: cpu ({torch.get_num_threads()} threads){''.join(f', {d}' for d in devices)}"
    )
    for name in BUNDLED:
        parameters = sum(p.numel() for p in load_model(name).parameters())
        click.echo(f"bundled weights: {name}, {parameters:,} parameters")
    click.echo(kernels.report())


@main.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The page, such as compare.html.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it is already there.")
def compare(before: Path, after: Path, output: Path, overwrite: bool) -> None:
    """Write a web page that shows two pictures under a slider, in one file without a network."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise click.ClickException(f"{output}: name it .html")
    if output.exists() and not overwrite:
        raise click.ClickException(
            f"{output} is already there: choose another output or add --overwrite"
        )
    from moceir.compare import write_comparison

    write_comparison(before, after, output)
    click.echo(f"{output}: open it in a browser")


@main.command()
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option(
    "--device", help="Torch device, such as cpu or cuda:0. Default: a GPU if there is one."
)
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
def app(model: str | None, device: str | None, port: int) -> None:
    """Restore pictures in a web page on this computer, which no other computer can reach."""
    try:
        from moceir.app import listen, serve
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'moceir[app]'") from error
    from moceir.restore import Restorer

    with listen(port) as server:  # before the network, which takes longer to load
        restorer = Restorer(model, device)
        host, port = server.getsockname()
        click.echo(f"open http://{host}:{port}/ in a browser; Ctrl-C stops")
        serve(restorer, server)
