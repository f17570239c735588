"""``moceir cost``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moceir.commands.common import DEVICE, MODEL, PATH, PRECISION, THREADS

if TYPE_CHECKING:
    from moceir.evaluation.cost import NetworkCost


@click.command()
@click.argument("pictures", nargs=-1, type=PATH, metavar="[IMAGES]...")
@MODEL
@click.option(
    "--preset", help="Instead of --model: a preset with random weights, such as moce_ir_s."
)
@click.option("--size", default="224x224", show_default=True, help="Width x height.")
@click.option(
    "--runs",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="Number of timed runs; 0: do not time.",
)
@DEVICE
@PRECISION
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def cost(
    pictures: tuple[Path, ...],
    model: str | None,
    preset: str | None,
    size: str,
    runs: int,
    device: str | None,
    precision: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Report what a network costs: parameters, multiply-accumulates per route, measured time.

    With IMAGES, also the route that each takes and what it costs.
    """
    if model and preset:
        raise click.ClickException("--model and --preset: choose one")
    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        raise click.ClickException(f"--size {size}: give width x height, such as 224x224") from None
    from moceir.config import preset as configuration
    from moceir.evaluation.cost import measure_cost
    from moceir.inference.restorer import Restorer
    from moceir.model import MoCEIR
    from moceir.weights.bundled import BUNDLED

    network = MoCEIR(configuration(preset)) if preset else model or BUNDLED[0]
    restorer = Restorer(network, device, precision, threads)
    found = measure_cost(restorer, width, height, pictures=pictures, runs=runs)
    click.echo(json.dumps(_content(found), indent=1) if as_json else _lines(found))


def _content(found: NetworkCost) -> dict[str, Any]:
    macs, more = found.macs, found.extras
    content: dict[str, Any] = {
        "parameters": found.parameters,
        "width": found.width,
        "height": found.height,
        "cheapest": macs.cheapest,
        "most_expensive": macs.most_expensive,
        "cheapest_with_extras": macs.cheapest + more.cheapest,
        "most_expensive_with_extras": macs.most_expensive + more.most_expensive,
        "pictures": [dataclasses.asdict(picture) for picture in found.pictures],
    }
    if found.seconds is not None:
        names = ("seconds", "device", "threads", "backend")
        content |= {name: getattr(found, name) for name in names}
    return content


def _lines(found: NetworkCost) -> str:
    def giga(number: float) -> str:
        return f"{number / 1e9:.2f} G"

    macs, more = found.macs, found.extras
    lines = [
        f"parameters: {found.parameters:,}",
        f"multiply-accumulates at {found.width} x {found.height}: {giga(macs.cheapest)} by the "
        f"cheapest route, {giga(macs.most_expensive)} by the most expensive",
        f"with norms and Fourier transforms: {giga(macs.cheapest + more.cheapest)} to "
        f"{giga(macs.most_expensive + more.most_expensive)}",
    ]
    if found.seconds is not None:
        lines.append(
            f"measured: {found.seconds:.3f} s on {found.device} ({found.threads} threads, "
            f"backend {found.backend})"
        )
    for p in found.pictures:
        lines.append(
            f"{p.picture}: {p.width} x {p.height}, experts {' '.join(map(str, p.experts))}, "
            f"{giga(p.macs)} (cheapest route {giga(p.cheapest)}, most expensive "
            f"{giga(p.most_expensive)})"
        )
    return "\n".join(lines)
