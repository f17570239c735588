"""``moceir evaluate``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moceir.commands.common import DEVICE, OVERWRITE, PATH, PRECISION, WEIGHTS, parts
from moceir.files import check_free


@click.command()
@click.option(
    "-m",
    "--model",
    type=WEIGHTS,
    metavar="TEXT",
    help="Weights, as for moceir restore; or a classical method, such as peer:bm3d.",
)
@click.option(
    "--benchmarks", default="", help="Names, such as cbsd68,rain100l,sots,gopro,lolv1,cdd11."
)
@click.option("--data", type=PATH, help="Folder that holds the data sets.")
@click.option(
    "--pair",
    "pairs",
    type=(PATH, PATH),
    multiple=True,
    metavar="DEGRADED CLEAN",
    help="Two folders whose images have the same names; may be repeated.",
)
@click.option(
    "--protocol",
    type=click.Choice(["published", "promptir"]),
    default="published",
    show_default=True,
    help="As in the published MoCE-IR code, or as in AirNet and PromptIR.",
)
@click.option(
    "--sigmas", default="15,25,50", show_default=True, help="Noise levels of the denoising sets."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "-t",
    "--tile",
    type=click.IntRange(min=0),
    default=0,
    help="Tile side in pixels; 0: whole images.",
)
@DEVICE
@PRECISION
@click.option("--save-pictures", is_flag=True, help="Also write the restored images, as PNG.")
@click.option("-o", "--output", required=True, type=PATH, help="Folder for the results.")
@OVERWRITE
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
    """Measure a network, or a classical method, on published benchmarks.

    Writes pictures.csv, results.json, results.md (with the papers' rows) and report.html (with a
    before/after slider) to the folder --output.
    """
    names = parts(benchmarks)
    if not names and not pairs:
        raise click.ClickException("name --benchmarks, or two folders with --pair")
    check_free(output / "results.json", overwrite)
    levels = _numbers(sigmas)
    from moceir.evaluation import run
    from moceir.evaluation.methods import find_method
    from moceir.evaluation.protocol import benchmarks as find_benchmarks
    from moceir.web.report import Examples, page

    found = find_benchmarks(names, data, levels, pairs)
    sizes = {benchmark.name: len(benchmark.pairs) for benchmark in found}
    examples = Examples()

    def report(row: run.Measurement, *images: Any) -> None:
        if count := sizes.pop(row.benchmark, None):  # its first picture
            click.echo(f"{row.benchmark}: {count} images", err=True)
        examples.add(row, *images)

    evaluation = run.evaluate(
        find_method(model, device, precision),
        found,
        protocol,
        seed=seed,
        tile=tile,
        pictures=output / "pictures" if save_pictures else None,
        report=report,
    )
    text = page(evaluation, examples)
    run.write_results(evaluation, output, page=text, overwrite=overwrite)
    click.echo(run.as_markdown(evaluation))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.ClickException(f"--sigmas {text}: give whole numbers with commas") from None
