"""Putting together what is wanted of a restored image."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from moceir.data.kinds import KINDS
from moceir.errors import TooLittleMemory
from moceir.inference import tiles
from moceir.inference.canvas import Canvas
from moceir.inference.settings import Wanted
from moceir.model.layers import padded
from moceir.model.selector import BRIGHTENING, CELL, DETAIL, LIGHT, Selector
from moceir.model.tone import Tone, fit_tone, local_mean
from moceir.weights.bundled import SELECTOR

TILE = 512
"""Side of the parts that a larger image is worked on in."""

CERTAINTY = dict.fromkeys(KINDS, 0.5) | dict.fromkeys(("noise", "haze", "low_light", "jpeg"), 0.8)
"""The probability from which on a kind counts as found. It is higher for noise and JPEG, which were
found in 22 of 139 clean training photos from 0.5 on, and for changes of light, which show all over
a photo."""

Found = tuple[str, ...]
"""The kinds of degradation that an image is found to have."""


class BufferedCanvas:
    """A canvas that holds results back until all of an image is there."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        batch, height, width = canvas.size
        try:
            # Written to at once: memory that is only promised would count as free.
            results = np.full((batch, 3, height, width), 0, np.float32)
        except MemoryError:
            raise TooLittleMemory(
                f"too little memory for the result of this {width} x {height} image",
                "free some memory",
                "device",
            ) from None
        self.results = torch.from_numpy(results)

    @property
    def size(self) -> tuple[int, int, int]:
        return self.canvas.size

    @property
    def is_grey(self) -> bool:
        return self.canvas.is_grey

    def image(self, index: int) -> BufferedCanvas:
        one = copy.copy(self)
        one.canvas, one.results = self.canvas.image(index), self.results[index : index + 1]
        return one

    def check(self) -> None:
        self.canvas.check()

    def part(self, rows: slice, columns: slice) -> Tensor:
        return self.canvas.part(rows, columns)

    def progress(self, done: int, tiles: int) -> None:
        self.canvas.progress(done, tiles)

    def put(self, rows: slice, result: Tensor) -> None:
        self.results[..., rows, :] = result.clamp(0, 1)


@cache
def load_selector(device: torch.device) -> Selector:
    """The bundled selector, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):  # what is drawn is replaced at once
        selector = Selector()
    selector.load_state_dict(load_file(SELECTOR))
    return selector.eval().requires_grad_(False).to(device)


class _Asked(NamedTuple):
    """What is wanted of each of the images."""

    kinds: list[Found]
    """To be removed."""
    light: list[float]
    """How much of the change of light is due to them."""


@torch.inference_mode()
def select(buffered: BufferedCanvas, wanted: Wanted, device: torch.device) -> list[Found] | None:
    """Hand on what is wanted of the results to the canvas beneath.

    Returns:
        What each of its images was found to have; None if it was not looked for.
    """
    if buffered.size[0] == 0:
        return [] if wanted.found else None
    with torch.autocast(device.type, enabled=False):
        return _select(buffered, wanted, device)


def _select(buffered: BufferedCanvas, wanted: Wanted, device: torch.device) -> list[Found] | None:
    height, width = buffered.size[1:]
    plan = tiles.plan(height, width, TILE if max(height, width) > TILE else 0, tiles.OVERLAP)
    if not wanted.found and wanted.only is None:
        _put(buffered, plan, wanted, device)
        return None
    asked = _asked(buffered, plan, wanted, device)
    if not wanted.found:
        _put(buffered, plan, wanted, device, asked)
        return None
    for i, kinds in enumerate(asked.kinds):
        if kinds:  # else the canvas keeps what it was given
            one = _Asked([kinds], asked.light[i : i + 1])
            _put(buffered.image(i), plan, wanted, device, one)
    return asked.kinds


def _put(
    buffered: BufferedCanvas,
    plan: tiles.TilePlan,
    wanted: Wanted,
    device: torch.device,
    asked: _Asked | None = None,
) -> None:
    """Put on the canvas what is wanted of its images; None: of every kind."""
    stitching = tiles.Stitching(plan)
    for part in _parts(buffered, plan, device):
        change = part.detail - part.image
        light = torch.full((buffered.size[0], 1, 1, 1), wanted.light, device=device)
        if asked is not None:
            change = _of_kinds(load_selector(device), part, change, asked.kinds)
            light *= torch.tensor(asked.light, device=device)[:, None, None, None]
        result = part.image + wanted.detail * change
        result = result + light * (part.tone(result) - result)
        finished = stitching.add(result[..., : part.height, : part.width].cpu())
        if finished is not None:
            buffered.canvas.put(*finished)


class Part(NamedTuple):
    """Of the images, on the device, padded for the selector."""

    image: Tensor
    """(B, 3, h, w) float32."""
    detail: Tensor
    """Likewise: restored, in its original light."""
    tone: Tone
    height: int
    width: int


def _parts(buffered: BufferedCanvas, plan: tiles.TilePlan, device: torch.device) -> Iterator[Part]:
    for done, (rows, columns) in enumerate(plan.tiles()):
        buffered.progress(done, plan.number)
        part, result = buffered.part(rows, columns), buffered.results[..., rows, columns]
        yield part_of(part.to(device, torch.float32), result.to(device))


def part_of(image: Tensor, restored: Tensor) -> Part:
    """Of images and what a network made of them, (B, 3, h, w) float32."""
    height, width = image.shape[2:]
    image, restored = padded(image, CELL), padded(restored, CELL)
    tone = fit_tone(image, restored)
    return Part(image, tone.undone(restored), tone, height, width)


def _asked(
    buffered: BufferedCanvas, plan: tiles.TilePlan, wanted: Wanted, device: torch.device
) -> _Asked:
    number = buffered.size[0]
    kinds = [wanted.only or ()] * number
    light = [kind for kind in LIGHT if kind in kinds[0]]
    if not wanted.found and len(light) != 1:
        return _Asked(kinds, [float(bool(light))] * number)
    logits = logits_of(load_selector(device), _parts(buffered, plan, device)).cpu()
    if wanted.found:
        kinds = [
            tuple(kind for kind, p in zip(KINDS, image, strict=True) if p >= CERTAINTY[kind])
            for image in logits.sigmoid().tolist()
        ]
        return _Asked(kinds, [float(any(kind in LIGHT for kind in found)) for found in kinds])
    # The change is one, with two possible causes: that which is wanted has as much of it as it is
    # the more probable one.
    haze, dark = (logits[:, KINDS.index(kind)] for kind in LIGHT)
    odds = haze - dark if light == ["haze"] else dark - haze
    return _Asked(kinds, odds.sigmoid().tolist())


def logits_of(selector: Selector, parts: Iterator[Part]) -> Tensor:
    """(B, 8) logits of KINDS, of whole images."""
    statistics, pixels = torch.zeros(()), 0
    for part in parts:
        levels = selector.features(part.image, part.detail)
        area = part.height * part.width
        statistics = statistics + area * selector.statistics(levels, part.image, part.tone)
        pixels += area
    return selector.classify(statistics / pixels)


def _of_kinds(selector: Selector, part: Part, change: Tensor, kinds: list[Found]) -> Tensor:
    """What of a change of detail belongs to the kinds that are to be removed from each image."""
    asked = torch.tensor([[float(kind in each) for kind in DETAIL] for each in kinds])
    if not asked.any():  # before it is on a GPU, which would be waited for
        return torch.zeros_like(change)
    asked = asked.to(change.device)
    of_kinds = selector(selector.features(part.image, part.detail), change, asked)
    keeps_means = [not set(each) & set(BRIGHTENING) for each in kinds]
    keeps = torch.tensor(keeps_means, device=change.device)
    of_kinds = of_kinds - local_mean(of_kinds) * keeps[:, None, None, None]
    return of_kinds * asked.any(1)[:, None, None, None]
