"""``moceir routes``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import PATH, check_figures, drawn


@click.command()
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
@drawn
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
    check_figures(outputs, overwrite)
    from moceir.figures.draw import save

    if training:
        from moceir.figures.routes import usage_figure
        from moceir.training.usage import read_usage

        runs = {name: read_usage(run / "experts.csv") for name, run in training}
        save(usage_figure(runs), outputs)
        return
    from moceir.data import degradations
    from moceir.evaluation import protocol
    from moceir.figures.routes import collect, routes_figure
    from moceir.inference.restorer import Restorer
    from moceir.pictures.images import find_pictures, open_rgb
    from moceir.pictures.pixels import to_tensor

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
