"""Training of the judge (``moceir.model.judge``) on what the specialists make of degraded images.

    python -m moceir.training.judge draw PICTURES examples.npz --patches 8000
    python -m moceir.training.judge fit examples.npz -o judge.safetensors

Clean patches are degraded in up to three ways and go through the specialists one after the other,
as photos do. It is known what a patch should look like after each of them: degraded by what those
that follow are to remove, with the same random numbers. So it is known, too, what the specialist
gains, and the judge learns whether it gains anything. The specialists are not trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moceir import cli
from moceir.data import synthesis
from moceir.data.counter import states, uniforms
from moceir.data.kinds import KINDS
from moceir.data.resident import ResidentPatches
from moceir.data.samples import CleanPictures
from moceir.data.scenes import faded, night
from moceir.data.synthesis import Recipe
from moceir.files import prepare_output, whole_file
from moceir.inference.restorer import Restorer
from moceir.inference.selection import load_selector, logits_of, part_of
from moceir.model.judge import Judge, seen
from moceir.pictures.images import find_pictures
from moceir.training.optimizer import lr_factor
from moceir.training.selector import write
from moceir.weights.bundled import BUNDLED, SPECIALISTS

BATCH = 4
"""Patches that are degraded and restored together."""
CROP = 192

SCENES = 0.06
"""Share of the patches that become night scenes, and of those whose blacks are faded."""
FOREIGN = 0.3
"""How often a specialist is tried on a patch that has nothing for it."""
MISTAKEN = 0.08
"""How often a patch goes on with the worse of what it was before and after a specialist."""

_FLOOR = (0.5 / 255) ** 2
"""Added to squared errors, so that gains near perfection count little: half a level of 8 bits."""
_MOST = 15.0
"""Gains count up to so many dB."""

_CHOICES = -9  # a stream of random numbers

DROPOUT, WEIGHT_DECAY = 0.1, 0.3

Examples = dict[str, np.ndarray]
"""Of n trials of a specialist: ``picture`` (n,), a number for each that patches are cut from,
``stage`` (n,) the specialist's index in ``SPECIALISTS``, ``gain`` (n,) in dB, ``weight`` (n,), more
than 1 for what is seldom tried, and what ``Judge.forward`` takes: ``seen``, ``logits`` and
``applied``."""


class Trials:
    """What specialists make of patches, by number.

    Args:
        folder: of clean pictures.
        seed: of patches and degradations.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        pictures = CleanPictures(tuple(find_pictures(folder)), KINDS, clean=1.0)
        self._source, self._seed = ResidentPatches(pictures, CROP, seed), seed
        self._selector = load_selector(torch.device("cpu"))
        self._networks = {name: Restorer(name, "cpu") for name in BUNDLED}

    def of(self, numbers: list[int]) -> Iterator[dict[str, Tensor]]:
        """Trials of all specialists, the fields as in ``Examples``."""
        choices = states(self._seed, np.asarray(numbers), _CHOICES)
        chance = torch.from_numpy(uniforms(choices, 0, 2 * len(SPECIALISTS)))
        clean = self._clean(numbers)
        pictures = torch.from_numpy(self._source.samples.take(self._seed, numbers))
        recipe = synthesis.draw(self._seed + 1, numbers, max_mixture=3, mixed=0.4, clean=0.16)[0]
        tried, erring = chance.chunk(2, dim=1)
        now = target = synthesis.degrade(clean, recipe)
        part = part_of(now, self._networks[BUNDLED[0]].restored(now))
        logits = logits_of(self._selector, iter([part]))
        applied, removed = torch.zeros(len(numbers), len(SPECIALISTS)), set[str]()
        for stage, (name, kinds) in enumerate(SPECIALISTS.items()):
            has = recipe.strength[:, [KINDS.index(kind) for kind in kinds]].max(1) > 0
            if has.any():
                removed |= set(kinds)
                target = synthesis.degrade(clean, _without(recipe, removed))
            has = torch.from_numpy(has)
            members = (has | (tried[:, stage] < FOREIGN)).nonzero().flatten()
            if not len(members):
                continue
            before = now[members]
            after = self._networks[name].restored(before)
            gain = _gain(before, after, target[members])
            yield {
                "picture": pictures[members],
                "stage": torch.full_like(members, stage),
                "gain": gain,
                "weight": torch.where(has[members], 1.0, 1 / FOREIGN),
                "seen": seen(before, after),
                "logits": logits[members],
                "applied": applied[members],
            }
            takes = (gain > 0) ^ (erring[members, stage] < MISTAKEN)
            now, applied = now.clone(), applied.clone()
            now[members[takes]] = after[takes]
            applied[members[takes], stage] = 1

    def _clean(self, numbers: list[int]) -> Tensor:
        patches = self._source.batch(self._source.read(numbers), torch.device("cpu"))
        clean = patches.clean.mul(255).round_().byte()
        clean = night(clean, self._seed, numbers, SCENES)
        return faded(clean, self._seed, numbers, SCENES)


def _without(recipe: Recipe, kinds: set[str]) -> Recipe:
    kept = np.array([kind not in kinds for kind in KINDS])
    return Recipe(recipe.seed, recipe.numbers, recipe.strength * kept)


def _gain(before: Tensor, after: Tensor, target: Tensor) -> Tensor:
    """(b,) in dB."""
    errors = [(image - target).square().mean((1, 2, 3)) + _FLOOR for image in (before, after)]
    return 10 * (errors[0] / errors[1]).log10()


def fit(judge: Judge, examples: Examples, steps: int, batch: int, lr: float) -> None:
    """Train each specialist's part on the trials of that specialist."""
    given = {key: torch.from_numpy(value) for key, value in examples.items()}
    for stage, head in enumerate(judge.heads):
        own = {key: value[given["stage"] == stage] for key, value in given.items()}
        x = judge.inputs(own["seen"], own["logits"], own["applied"])
        judge.mean[stage], judge.scale[stage] = x.mean(0), x.std(0) + 1e-3
        x = ((x - judge.mean[stage]) / judge.scale[stage]).clamp(-5, 5)
        gain = own["gain"].clamp(-_MOST, _MOST)
        _fit_head(head, x, gain, own["weight"], steps, batch, lr)


def _fit_head(
    head: nn.Module, x: Tensor, gain: Tensor, weight: Tensor, steps: int, batch: int, lr: float
) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    # A choice costs what it loses: a gain that is forgone, or what a false alarm spoils.
    better, weight = (gain > 0).float(), weight * (gain.abs() + 0.05)
    for step in range(steps):
        chosen = torch.randint(len(x), (batch,))
        z = head(F.dropout(x[chosen], DROPOUT))[:, 0]
        loss = F.binary_cross_entropy_with_logits(z, better[chosen], weight[chosen])
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, 100, steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def read(paths: tuple[Path, ...]) -> Examples:
    """Those of several files, one after the other."""
    files = [np.load(path) for path in paths]
    return {key: np.concatenate([file[key] for file in files]) for key in files[0].files}


@click.group(cls=cli.Group)
def main() -> None:
    """Train the judge."""


@main.command(cls=cli.Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--patches", default=8000, show_default=True, help="How many to draw.")
@click.option("--first", default=0, show_default=True, help="Number of the first patch.")
@click.option("--seed", default=0, show_default=True, help="Of patches and degradations.")
def draw(folder: Path, output: Path, patches: int, first: int, seed: int) -> None:
    """Try the specialists on the clean pictures in FOLDER, degraded; OUTPUT is a .npz file, which
    is written again every 200 patches."""
    prepare_output(output)
    trials, made = Trials(folder, seed), list[dict[str, np.ndarray]]()
    for start in range(first, first + patches, BATCH):
        numbers = list(range(start, min(start + BATCH, first + patches)))
        made += [{key: v.numpy() for key, v in each.items()} for each in trials.of(numbers)]
        done = numbers[-1] + 1 - first
        if done % 200 == 0 or done == patches:
            examples: dict[str, Any] = {k: np.concatenate([m[k] for m in made]) for k in made[0]}
            with whole_file(output) as temporary, temporary.open("wb") as file:
                np.savez(file, **examples)
            click.echo(f"{done} patches")


@main.command(name="fit", cls=cli.Command)
@click.argument("examples", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The weights.")
@click.option("--steps", default=800, show_default=True, help="Of each specialist's part.")
@click.option("--batch", default=256, show_default=True, help="Trials in a step.")
@click.option("--lr", default=2e-3, show_default=True, help="The largest learning rate.")
@click.option("--seed", default=0, show_default=True, help="Of the first weights and batches.")
def fit_command(
    examples: tuple[Path, ...], output: Path, steps: int, batch: int, lr: float, seed: int
) -> None:
    """Train the judge on files of EXAMPLES, from ``draw``."""
    torch.manual_seed(seed)
    judge = Judge()
    prepare_output(output)
    fit(judge, read(examples), steps, batch, lr)
    write(judge, output)


if __name__ == "__main__":
    main()
