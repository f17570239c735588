"""Restoration by specialists: networks for one kind of degradation each, those that a photo needs.

A network that is trained on all kinds at once gets better at each of them slowly
(docs/training-log.md, run 9), and one that knows a single kind leaves most other photos alone. So a
photo is looked at first, in some places. There each specialist is tried in turn, unless the
selector (``moceir.model.selector``) rules its kinds out, and the judge (``moceir.model.judge``)
says from what it changed whether the photo is better for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from moceir.data.kinds import KINDS
from moceir.errors import TooLittleMemory
from moceir.inference import memory
from moceir.inference.canvas import Canvas, grey
from moceir.inference.results import Run, said
from moceir.inference.selection import BufferedCanvas, load_selector, logits_of, part_of
from moceir.inference.settings import Wanted
from moceir.inference.threads import cpu_threads
from moceir.model.judge import Judge, seen
from moceir.weights.bundled import JUDGE, SPECIALISTS

if TYPE_CHECKING:
    from moceir.inference.restorer import Restorer

SIDE = 256
"""Side, in pixels, of the places where a photo is looked at."""
PLACES = 3
"""The most places in a row, and the most rows of them."""

Needed = dict[str, str]
"""The specialists that an image needs, in order, and the kind that it is likely to have of each."""

POSSIBLE = 0.02
"""A specialist is not tried on an image that has its kinds with less than this probability, by the
selector. Of patches that are better by 1 dB or more for a specialist, 0.8 % are lost so."""

SURE = 1.0
"""How sure the judge must be: at 0, what is won and what is lost by a yes would balance. Chosen on
training photos that it had not seen (docs/training-log.md, run 10)."""


class Onward:
    """The results of one network as the images of the next, whose results go to ``canvas``."""

    def __init__(self, canvas: Canvas, results: Tensor) -> None:
        self._canvas, self._results = canvas, results

    @property
    def size(self) -> tuple[int, int, int]:
        return self._canvas.size

    @property
    def is_grey(self) -> bool:
        return self._canvas.is_grey

    def image(self, index: int) -> Onward:
        return Onward(self._canvas.image(index), self._results[index : index + 1])

    def check(self) -> None:
        """Nothing to do: a network's results are in [0, 1]."""

    def part(self, rows: slice, columns: slice) -> Tensor:
        part = self._results[..., rows, columns]
        return grey(part).expand(-1, 3, -1, -1) if self.is_grey else part

    def put(self, rows: slice, result: Tensor) -> None:
        self._canvas.put(rows, result)

    def progress(self, done: int, tiles: int) -> None:
        self._canvas.progress(done, tiles)


class Specialists:
    """The specialists of a ``Restorer``, loaded when they are first needed.

    Args:
        general: has the network for all kinds; they share its device, precision and threads.
    """

    def __init__(self, general: Restorer) -> None:
        self._general = general
        self._loaded: dict[str, Restorer] = {}
        self._loading = threading.Lock()

    def all(self) -> list[Restorer]:
        """Every one, loaded."""
        return [self._of(name) for name in SPECIALISTS]

    def _of(self, name: str) -> Restorer:
        with self._loading:  # a second one, of another thread, would keep its memory
            if name not in self._loaded:
                # This may happen while an image is restored: the weights must be ordinary tensors
                # all the same, and drawing their first values must not change the caller's random
                # numbers.
                with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                    self._loaded[name] = self._general.sibling(name)
            return self._loaded[name]

    def restored(self, canvas: Canvas, wanted: Wanted) -> tuple[Run, ...]:
        """Restore the images on a canvas, each by those that it needs.

        Raises:
            PictureError: too little memory, or a result that is not finite.
        """
        number, height, width = canvas.size
        if number == 0:
            return ()
        if wanted.only is not None:
            names = [n for n, kinds in SPECIALISTS.items() if set(kinds) & set(wanted.only)]
            return self._by(names, canvas, wanted)
        with cpu_threads(self._general.threads):
            if number * height * width <= (PLACES * SIDE) ** 2:
                found = self._found(canvas)
            else:
                found = [each for i in range(number) for each in self._found(canvas.image(i))]
        needed = [[*each] for each in found]
        if all(names == needed[0] for names in needed):
            runs = self._by(needed[0], canvas, wanted)
        else:
            alone = (self._by(names, canvas.image(i), wanted) for i, names in enumerate(needed))
            runs = tuple(run for (run,) in alone)
        kinds = [(*each.values(),) for each in found]
        return tuple(
            run._replace(found=k, notes=(*run.notes, said(k)))
            for run, k in zip(runs, kinds, strict=True)
        )

    def _by(self, names: list[str], canvas: Canvas, wanted: Wanted) -> tuple[Run, ...]:
        """Restored by these, one after the other."""
        number = canvas.size[0]
        runs = (Run(0, 0, (), ()),) * number
        notes: list[tuple[str, ...]] = [()] * number
        blends = wanted.light == wanted.detail
        source = canvas
        for name in names:
            buffered = None
            if name != names[-1] or not blends:
                buffered = BufferedCanvas(source)
            runs = self._specialist(name).run_on(source if buffered is None else buffered, wanted)
            # What is said of one network's run, such as its tiles, is mostly true of all.
            notes = [(*dict.fromkeys((*n, *r.notes)),) for n, r in zip(notes, runs, strict=True)]
            if buffered is not None:
                source = Onward(canvas, buffered.results)
        if names and not blends:
            assert buffered is not None
            buffered.canvas = canvas  # what is blended are the first images and the last results
            self._general.put_wanted(buffered, wanted._replace(only=None, found=False))
        return tuple(r._replace(notes=n) for r, n in zip(runs, notes, strict=True))

    def _specialist(self, name: str) -> Restorer:
        while True:
            try:
                return self._of(name)
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error):
                    raise
            if not self._general.release_memory():
                raise self._too_little(f"loading the specialist {name}")

    def _found(self, canvas: Canvas) -> list[Needed]:
        """Of each image."""
        while True:
            try:
                return self._look(canvas)
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error):
                    raise
            # Here what the attempt held is gone.
            if not self._general.release_memory():
                raise self._too_little("looking at the image")

    def _too_little(self, doing: str) -> TooLittleMemory:
        need = f"{self._general.device} ran out of memory while {doing}"
        return TooLittleMemory(need, "free some memory or choose another device", "device")

    @torch.inference_mode()
    def _look(self, canvas: Canvas) -> list[Needed]:
        """Let each specialist try, one after the other, in some places of the images."""
        device = self._general.device
        selector, judge = load_selector(device), load_judge(device)
        with torch.autocast(device.type, enabled=False):
            places = []
            for rows, columns in _places(*canvas.size[1:]):
                places.append(canvas.part(rows, columns).to(device, torch.float32))
            canvas.check()
            given = (self._pair(self._general, place, canvas) for place in places)
            logits = logits_of(selector, (part_of(*pair) for pair in given))
            applied = torch.zeros(len(logits), len(SPECIALISTS), device=device)
            found: list[Needed] = [{} for _ in logits]
            for turn, (name, kinds) in enumerate(SPECIALISTS.items()):
                own = [KINDS.index(kind) for kind in kinds]
                probability, likely = logits[:, own].sigmoid().max(1)
                needed = probability >= POSSIBLE
                if not needed.any():
                    continue
                pairs = [self._pair(self._of(name), place, canvas) for place in places]
                needed &= judge(name, _seen(pairs), logits, applied) > SURE
                applied[:, turn] = needed
                places = [after.where(needed[:, None, None, None], b) for b, after in pairs]
                for i in needed.nonzero().flatten().tolist():
                    found[i][name] = kinds[int(likely[i])]
            return found

    def _pair(self, network: Restorer, place: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
        """A place before and after."""
        canvas.progress(0, 1)  # who has waited long enough can stop it here
        return place, network.restored(place)


@cache
def load_judge(device: torch.device) -> Judge:
    """The bundled judge."""
    with torch.random.fork_rng(devices=[]):  # what is drawn is replaced at once
        judge = Judge()
    judge.load_state_dict(load_file(JUDGE))
    return judge.eval().requires_grad_(False).to(device)


def _seen(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(B, 17) for a judge, of all places together."""
    areas = [before.shape[2] * before.shape[3] for before, _ in pairs]
    each = [seen(*pair) for pair in pairs]
    return torch.stack([a * s for a, s in zip(areas, each, strict=True)]).sum(0) / sum(areas)


def _places(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Where an image is looked at: everywhere if it is small; if it is large, at its corners and in
    the middle."""
    rows, columns = _along(height), _along(width)
    large = len(rows) == len(columns) == PLACES
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            if not large or (i + j) % 2 == 0:
                yield slice(top, bottom), slice(left, right)


def _along(size: int) -> list[tuple[int, int]]:
    """Evenly spaced parts of a side, the first and the last at its ends."""
    if size <= 1.5 * SIDE:
        return [(0, size)]
    number = min(PLACES, size // SIDE + 1)
    starts = [i * (size - SIDE) // (number - 1) for i in range(number)]
    return [(start, start + SIDE) for start in starts]
