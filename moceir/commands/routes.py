"""``moceir routes``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

from pathlib import Path

import click

from moceir.commands.common import DEVICE, MODEL, PATH, check_figures, drawn, parts


@click.command()
@click.argument("pictures", nargs=-1, type=PATH, metavar="[IMAGES]...")
@MODEL
@click.option(
    "--kinds", default="", help="Degradations for clean IMAGES, such as noise,rain. Default: all."
)
@click.option(
    "--benchmarks", default="", help="Instead of IMAGES: benchmarks, as for moceir evaluate."
)
@click.option("--data", type=PATH, help="Folder that holds the data sets.")
@click.option(
    "--training",
    type=(str, PATH),
    multiple=True,
    metavar="NAME RUN",
    help="Instead: show expert usage during a training run; may be repeated.",
)
@click.option("--seed", default=0, show_default=True)
@DEVICE
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
    """Draw which experts each degradation is routed to, per decoder block (figure 5 of the paper).

    IMAGES are clean images, or folders of them. Each is degraded in every way named by --kinds.
    """
    if bool(pictures) + bool(benchmarks) + bool(training) != 1:
        raise click.ClickException("give one of these: clean IMAGES, --benchmarks, --training")
    check_figures(outputs, overwrite)
    from moceir.figures.draw import save
    from moceir.figures.routes import routes_figure, usage_figure

    if training:
        from moceir.training.usage import read_usage

        runs = {name: read_usage(run / "experts.csv") for name, run in training}
        return save(usage_figure(runs), outputs)
    from moceir.evaluation.protocol import benchmarks as find_benchmarks
    from moceir.evaluation.routes import routes as find_routes
    from moceir.inference.restorer import Restorer
    from moceir.weights.bundled import BUNDLED

    found = find_benchmarks(parts(benchmarks), data)
    restorer = Restorer(model or BUNDLED[0], device)
    counts = find_routes(restorer, pictures, kinds=parts(kinds), benchmarks=found, seed=seed)
    save(routes_figure(counts), outputs)
    for label, table in counts.items():
        taken = "  ".join("/".join(str(n) for n in block) for block in table.tolist())
        click.echo(f"{label}: {taken}")
