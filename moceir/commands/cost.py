"""``moceir cost``."""

# What a command needs is imported when it runs: --help answers without loading torch.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from moceir.commands.common import PATH, PRECISION


@click.command()
@click.argument("pictures", nargs=-1, type=PATH)
@click.option("-m", "--model", help="Bundled name, folder, weights file or published checkpoint.")
@click.option("--preset", help="Instead: a network with random weights, such as moce_ir_s.")
@click.option("--size", default="224x224", show_default=True, help="Width x height.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(0), help="To time; or 0.")
@click.option("--device", help="Torch device. Default: a GPU if there is one.")
@click.option("--precision", type=PRECISION)
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
    from moceir.evaluation import cost as costs
    from moceir.inference.restorer import Restorer
    from moceir.model import MoCEIR
    from moceir.pictures.images import open_rgb
    from moceir.pictures.pixels import to_tensor

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
        "most_expensive": counted.most_expensive,
        "cheapest_with_extras": counted.cheapest + extra.cheapest,
        "most_expensive_with_extras": counted.most_expensive + extra.most_expensive,
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
                "most_expensive": of_size.most_expensive,
            }
        )
    click.echo(json.dumps(found, indent=1) if as_json else _cost_lines(found))


def _cost_lines(found: dict[str, Any]) -> str:
    def giga(number: float) -> str:
        return f"{number / 1e9:.2f} G"

    lines = [
        f"parameters: {found['parameters']:,}",
        f"multiply-accumulates at {found['width']} x {found['height']}: "
        f"{giga(found['cheapest'])} by the cheapest route, {giga(found['most_expensive'])} "
        "by the most expensive",
        f"with norms and Fourier transforms: {giga(found['cheapest_with_extras'])} to "
        f"{giga(found['most_expensive_with_extras'])}",
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
            f"{giga(p['cheapest'])}, most expensive {giga(p['most_expensive'])})"
        )
    return "\n".join(lines)
