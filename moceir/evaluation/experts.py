"""What a network's experts contribute: the same images restored with each of them.

    python -m moceir.evaluation.experts FOLDER -m WEIGHTS -o results.json

Every image is restored as the router decides, then with every decoder block forced to the same
expert, and then without experts, each replaced by the identity. If all results are alike, the
mixture of experts does nothing. The results are discussed in docs/routing.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean

import click
import torch
from torch import Tensor

from moceir import cli
from moceir.data import synthesis
from moceir.data.crops import middle
from moceir.data.synthesis import KINDS
from moceir.errors import ConfigError
from moceir.evaluation.metrics import psnr
from moceir.files import prepare_output, whole_file
from moceir.model import MoCEIR, load_model
from moceir.model.experts import ExpertBank
from moceir.model.routing import forced_expert
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import to_tensor

ROUTED, WITHOUT = "routed", "without"


@contextmanager
def without_experts(model: MoCEIR) -> Iterator[None]:
    """Experts replaced by the identity: ``e_i(x, S) = x``."""
    banks = (module for module in model.modules() if isinstance(module, ExpertBank))
    outward = [bank.weights().out_proj for bank in banks]
    kept = [weights.detach().clone() for weights in outward]
    with torch.no_grad():
        for weights in outward:
            weights.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for weights, old in zip(outward, kept, strict=True):
                weights.copy_(old)


def centre(path: Path, side: int) -> Tensor:
    """(1, 3, h, w) uint8, the middle of a picture, at most ``side`` high and wide."""
    return (to_tensor(middle(open_rgb(path), side))[None] * 255).round().to(torch.uint8)


@torch.inference_mode()
def gains(model: MoCEIR, pictures: Sequence[Tensor], kind: str, strength: str) -> dict[str, float]:
    """Mean gain in dB over the degraded pictures: ``routed``, ``expert_1`` ..., ``without``.

    Args:
        pictures: each (1, 3, H, W) uint8.
        kind, strength: as in ``synthesis.at``; picture i is drawn with number i.
    """
    ways: dict[str, AbstractContextManager[None]] = {ROUTED: nullcontext()}
    for expert in range(model.config.num_experts):
        ways[f"expert_{expert + 1}"] = forced_expert(model, expert)
    ways[WITHOUT] = without_experts(model)
    pairs = [
        (p, synthesis.degrade(p, synthesis.at(kind, strength, [i]))) for i, p in enumerate(pictures)
    ]
    found = {}
    for way, context in ways.items():
        with context:
            found[way] = fmean(_gain(model, clean / 255, degraded) for clean, degraded in pairs)
    return found


def _gain(model: MoCEIR, clean: Tensor, degraded: Tensor) -> float:
    restored = (model(degraded).clamp(0, 1) * 255).round() / 255
    return psnr(restored[0], clean[0]) - psnr(degraded[0], clean[0])


def spread(row: dict[str, float]) -> float:
    """Difference in dB between the best and the worst forced expert."""
    forced = [gain for way, gain in row.items() if way.startswith("expert_")]
    return max(forced) - min(forced)


def table(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """Markdown: a line for each degradation and its gains."""
    ways = [*rows[0][1]]
    lines = [
        f"| gain, dB | {' | '.join(way.replace('_', ' ') for way in ways)} | spread |",
        "| --- |" + " ---: |" * (len(ways) + 1),
    ]
    for name, row in rows:
        cells = " | ".join(f"{row[way]:+.2f}" for way in ways)
        lines.append(f"| {name} | {cells} | {spread(row):.2f} |")
    return "\n".join(lines)


@click.command(cls=cli.Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--model", default="compact", show_default=True, help="As for moceir restore.")
@click.option("--side", default=256, show_default=True, help="Side of the centre crop.")
@click.option("--strength", default="medium", show_default=True, help="slight, medium or strong.")
@click.option("--kinds", default=",".join(KINDS), show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="JSON file.")
def main(folder: Path, model: str, side: int, strength: str, kinds: str, output: Path) -> None:
    """Measure what the experts contribute, on the clean images in FOLDER."""
    unknown = [kind for kind in kinds.split(",") if kind not in KINDS]
    if unknown:
        raise ConfigError(f"kind {unknown[0]!r}: choose of {', '.join(KINDS)}", "kinds")
    network = load_model(model).eval()
    pictures = [centre(path, side) for path in find_pictures(folder)]
    prepare_output(output)
    rows = [(kind, gains(network, pictures, kind, strength)) for kind in kinds.split(",")]
    click.echo(table(rows))
    with whole_file(output) as temporary:
        result = {"pictures": len(pictures), "side": side, "strength": strength, "rows": dict(rows)}
        temporary.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
