"""``moceir evaluate``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, PRECISION


@click.command()
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
@click.option("--precision", type=PRECISION)
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
    levels = numbers("--sigmas", sigmas)
    from moceir.evaluation import protocol as protocols
    from moceir.evaluation.lpips import find_lpips
    from moceir.evaluation.methods import find_method
    from moceir.evaluation.run import as_markdown, measure, write_results
    from moceir.pictures.images import save_image
    from moceir.pictures.pixels import to_image
    from moceir.web.report import Examples, report

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
    write_results(rows, about, output, report(rows, about, examples))
    click.echo(as_markdown(rows, about))


def numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.ClickException(f"{option} {text}: give whole numbers with commas") from None
