"""Training of the selector (``moceir.model.selector``) on the results of a restoration network.

    python -m moceir.training.selector PICTURES -o selector.safetensors --steps 4500

Clean patches are degraded in one to three ways at once, some of which are to be removed: the target
is the same patch, degraded by the others alone with the same random numbers. The network itself is
not trained.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from moceir import cli
from moceir.data import synthesis
from moceir.data.counter import states, uniforms
from moceir.data.kinds import KINDS
from moceir.data.resident import ResidentPatches
from moceir.data.samples import CleanPictures
from moceir.data.synthesis import Recipe
from moceir.files import prepare_output, whole_file
from moceir.model import MoCEIR, load_model
from moceir.model.selector import DETAIL, Selector
from moceir.model.tone import Tone, fit_tone
from moceir.pictures.images import find_pictures
from moceir.training.optimizer import MuonAdamW, lr_factor
from moceir.weights.bundled import BUNDLED

NIGHT = 0.05
"""Share of the patches that become night scenes."""

_WANTED = -6  # a stream of random numbers
VISIBLE = 1.0 / 255
"""Root mean square of what a degradation changes, from which on it is there to be found."""
_INVISIBLE = 0.4 / 255


class Batch(NamedTuple):
    """b patches to train on."""

    degraded: Tensor
    """(b, 3, crop, crop) in [0, 1]."""
    targets: list[Tensor]
    """Likewise: without what is to be removed, in the same light; for each of ``wanted``."""
    wanted: list[Tensor]
    """(b, 6) each, as ``Selector`` takes it."""
    present: Tensor
    """(b, 8): 1 for ``KINDS`` that can be seen, 0 for those that are not there."""
    certain: Tensor
    """(b, 8): 0 for what can hardly be seen, where both answers are right."""


def recipe_of(seed: int, numbers: list[int]) -> Recipe:
    """What is wrong with the patches of these numbers."""
    return synthesis.draw(seed, numbers, max_mixture=3, mixed=0.6, clean=0.12)[0]


def make_batch(clean: Tensor, seed: int, numbers: list[int]) -> Batch:
    """Degrade clean patches, (b, 3, crop, crop) uint8, of these numbers."""
    recipe = recipe_of(seed, numbers)
    u = torch.from_numpy(uniforms(states(seed, np.asarray(numbers), _WANTED), 0, len(KINDS)))
    has = torch.from_numpy(recipe.strength > 0)
    removed = torch.where(has, u < 0.5, u < 0.25)
    light = torch.tensor([kind not in DETAIL for kind in KINDS])
    both = [kinds & ~light for kinds in (removed, removed ^ has)]
    effect = _effects(clean, recipe)
    return Batch(
        synthesis.degrade(clean, recipe),
        [synthesis.degrade(clean, _without(recipe, kinds)) for kinds in both],
        [kinds[:, ~light].float() for kinds in both],
        (effect >= VISIBLE).float(),
        ((effect >= VISIBLE) | (effect <= _INVISIBLE)).float(),
    )


def _without(recipe: Recipe, removed: Tensor) -> Recipe:
    return Recipe(recipe.seed, recipe.numbers, recipe.strength * ~removed.numpy())


def _effects(clean: Tensor, recipe: Recipe) -> Tensor:
    """(b, 8): root mean square of what each degradation alone changes."""
    effects = torch.zeros(recipe.strength.shape)
    untouched = synthesis.degrade(clean, _without(recipe, torch.ones(recipe.strength.shape) > 0))
    present = torch.from_numpy(recipe.strength > 0)
    while present.any():
        one = F.one_hot(present.int().argmax(1), len(KINDS)).bool() & present
        members = one.any(1)
        rows = members.numpy()
        strength = (recipe.strength * one.numpy())[rows]
        alone = Recipe(recipe.seed, recipe.numbers[rows], strength)
        changed = synthesis.degrade(clean[members], alone) - untouched[members]
        effects[one] = changed.square().mean((1, 2, 3)).sqrt()
        present &= ~one
    return effects


class Inputs(NamedTuple):
    """What the selector sees of a batch."""

    degraded: Tensor
    tone: Tone
    detail: Tensor
    """The restored patches in their original light."""


@torch.no_grad()
def inputs_of(network: MoCEIR, degraded: Tensor) -> Inputs:
    restored = network(degraded).clamp(0, 1)
    tone = fit_tone(degraded, restored)
    return Inputs(degraded, tone, tone.undone(restored))


def losses(selector: Selector, given: Batch, shown: Inputs) -> tuple[Tensor, Tensor]:
    """Of the patches, and of the classifier."""
    change = shown.detail - shown.degraded
    levels = selector.features(shown.degraded, shown.detail)
    # Dark patches count as they will look when they are bright. Slight damage counts, too.
    size = change.abs().mean((1, 2, 3), keepdim=True)
    weight = shown.tone.gain.clamp(1, 4) / (size + 0.005).sqrt()
    of_patches = torch.zeros(())
    for target, wanted in zip(given.targets, given.wanted, strict=True):
        result = shown.degraded + selector(levels, change, wanted)
        of_patches = of_patches + ((result - target).abs() * weight).mean() / len(given.wanted)
    return of_patches, classifier_loss(selector, levels, given, shown)


def classifier_loss(
    selector: Selector, levels: list[Tensor], given: Batch, shown: Inputs
) -> Tensor:
    logits = selector.classify(selector.statistics(levels, shown.degraded, shown.tone))
    return F.binary_cross_entropy_with_logits(logits, given.present, given.certain)


class Batches:
    """Batches by number, of the clean pictures in a folder."""

    def __init__(self, folder: Path, crop: int, batch: int, seed: int) -> None:
        paths = tuple(find_pictures(folder))
        # They are degraded here and not there.
        pictures = CleanPictures(paths, KINDS, clean=1.0, night=NIGHT)
        self._source, self._batch = ResidentPatches(pictures, crop, seed), batch

    def __getitem__(self, step: int) -> Batch:
        numbers = list(range(step * self._batch, (step + 1) * self._batch))
        patches = self._source.batch(self._source.read(numbers), torch.device("cpu"))
        clean = patches.clean.mul(255).round_().byte()
        return make_batch(clean, self._source.seed + 1, numbers)


class Log:
    """Means of losses, a line of JSON for every 50 steps."""

    def __init__(self, path: Path, phase: str) -> None:
        self._path, self._phase, self._start = path, phase, time.perf_counter()
        self._values: list[list[float]] = []

    def add(self, *values: Tensor) -> None:
        self._values.append([value.item() for value in values])
        if len(self._values) % 50 == 0:
            line = {
                "phase": self._phase,
                "step": len(self._values),
                "losses": np.mean(self._values[-50:], axis=0).round(5).tolist(),
                "seconds": round(time.perf_counter() - self._start),
            }
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def train(
    selector: Selector, network: MoCEIR, batches: Batches, steps: int, lr: float, log: Log
) -> None:
    """Train all of it, with Muon and a learning rate that falls to 0 along a cosine."""
    optimizer = MuonAdamW(selector.parameters(), lr=lr)
    for step in range(steps):
        given = batches[step]
        of_patches, of_classifier = losses(selector, given, inputs_of(network, given.degraded))
        _step(optimizer, of_patches + of_classifier, lr * lr_factor(step, 100, steps))
        log.add(of_patches, of_classifier)


def train_classifier(
    selector: Selector, network: MoCEIR, batches: Batches, steps: int, lr: float, log: Log
) -> None:
    """Train the classifier alone: on larger patches, of which it sees more than it will of the
    smallest images that people restore."""
    optimizer = torch.optim.AdamW(selector.classifier.parameters(), lr=lr)
    for step in range(steps):
        given = batches[step]
        shown = inputs_of(network, given.degraded)
        with torch.no_grad():
            levels = selector.features(shown.degraded, shown.detail)
        loss = classifier_loss(selector, levels, given, shown)
        _step(optimizer, loss, lr * lr_factor(step, 100, steps))
        log.add(loss)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    groups = optimizer.param_groups
    torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
    for group in groups:
        group["lr"] = lr
    optimizer.step()


def write(network: nn.Module, path: Path) -> None:
    """In float16, whole or not at all."""
    tensors = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors))


@click.command(cls=cli.Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-m", "--model", help="The network whose results are learned from.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The weights.")
@click.option("--steps", default=4500, show_default=True, help="Steps of all of it.")
@click.option(
    "--classifier-steps", default=1000, show_default=True, help="Steps of the classifier alone."
)
@click.option("--batch", default=16, show_default=True, help="Patches in a step.")
@click.option("--crop", default=128, show_default=True, help="Side of a patch, pixels.")
@click.option("--lr", default=1e-3, show_default=True, help="The largest learning rate.")
@click.option("--seed", default=0, show_default=True, help="Of patches and first weights.")
def main(
    folder: Path,
    model: str | None,
    output: Path,
    steps: int,
    classifier_steps: int,
    batch: int,
    crop: int,
    lr: float,
    seed: int,
) -> None:
    """Train the selector on the clean pictures in FOLDER."""
    torch.manual_seed(seed)
    network = load_model(model or BUNDLED[0]).requires_grad_(False)
    selector, log = Selector(), output.with_suffix(".jsonl")
    batches = Batches(folder, crop, batch, seed)
    prepare_output(output)
    train(selector, network, batches, steps, lr, Log(log, "all"))
    write(selector, output)
    larger = Batches(folder, 2 * crop, max(1, batch // 2), seed + 1)
    train_classifier(selector, network, larger, classifier_steps, lr, Log(log, "classifier"))
    write(selector, output)


if __name__ == "__main__":
    main()
