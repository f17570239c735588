"""What training patches show: which picture each of them takes, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from moceir.data import synthesis
from moceir.data.counter import states, uniforms
from moceir.data.crops import at_least, places
from moceir.data.datasets import Pair, check_sizes
from moceir.data.degradations import Degradation, degrade
from moceir.data.light import of_bytes
from moceir.data.scenes import faded, night
from moceir.data.synthesis import SEVERAL
from moceir.errors import PictureError

_ORDER = -4
"""The stream of random numbers that shuffles an epoch."""


class Patches(NamedTuple):
    """Training patches, b of them, on the device that trains."""

    clean: Tensor
    """(b, 3, crop, crop) float32 in [0, 1]."""
    degraded: Tensor
    """Likewise, in 8-bit steps, as the files are that people restore."""
    labels: list[int]
    """What is wrong with each: an index of the samples' ``labels``."""


class Samples(Protocol):
    """Pictures to take patches of. Everything is a function of a seed and the patches' numbers."""

    @property
    def labels(self) -> Sequence[str]:
        """What can be wrong with a patch."""

    def __len__(self) -> int:
        """Pictures, each as often as an epoch shows it."""

    def __getitem__(self, index: int) -> Pair: ...

    @property
    def pairs(self) -> Sequence[Pair]:
        """The pictures, each once for every set it is in."""

    def take(self, seed: int, numbers: Sequence[int]) -> np.ndarray:
        """(b,) int64: the index of the picture that each of the patches shows."""

    def fitted(self, pair: Pair, pixels: list[np.ndarray], crop: int) -> list[np.ndarray]:
        """The pictures of a pair, each (H, W, 3) uint8, of one size and no smaller than ``crop``.

        Raises:
            PictureError: they cannot be made so.
        """

    def degrade(
        self,
        clean: Tensor,
        degraded: Tensor | None,
        numbers: Sequence[int],
        taken: np.ndarray,
        seed: int,
    ) -> Patches:
        """Patches as they are trained on.

        Args:
            clean: (b, 3, crop, crop) uint8.
            degraded: likewise, as they were read; the clean ones where there is no degraded
                picture; None: there is none at all.
            numbers: of the patches.
            taken: what they show, from ``take``.
            seed: of the degradations.
        """


@dataclass(frozen=True)
class CleanPictures:
    """Clean pictures, of which each patch takes any, whose degradations are drawn for each patch by
    ``synthesis.draw``. Pictures smaller than a patch are reflected at their edges.

    Args:
        paths: at least one.
        kinds, max_mixture, mixed, clean: as for ``synthesis.draw``.
        night, faded: shares of the patches that become such scenes first, see ``scenes``.
    """

    paths: tuple[Path, ...]
    kinds: tuple[str, ...]
    max_mixture: int = 1
    mixed: float = 0.0
    clean: float = 0.0
    night: float = 0.0
    faded: float = 0.0

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys([*self.kinds, SEVERAL]))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.paths[index])

    @property
    def pairs(self) -> list[Pair]:
        return [Pair(path) for path in self.paths]

    def take(self, seed: int, numbers: Sequence[int]) -> np.ndarray:
        return (places(seed, np.asarray(numbers))[:, 0] * len(self.paths)).astype(np.int64)

    def fitted(self, pair: Pair, pixels: list[np.ndarray], crop: int) -> list[np.ndarray]:
        return [at_least(picture, crop) for picture in pixels]

    def degrade(
        self,
        clean: Tensor,
        degraded: Tensor | None,
        numbers: Sequence[int],
        taken: np.ndarray,
        seed: int,
    ) -> Patches:
        """Kinds are taken in turn: what pulls at the weights in different directions stays in
        balance."""
        recipe, kinds = synthesis.draw(
            seed, numbers, self.kinds, self.max_mixture, self.mixed, self.clean
        )
        labels = self.labels
        clean = night(clean, seed, numbers, self.night)
        clean = faded(clean, seed, numbers, self.faded)
        return Patches(
            of_bytes(clean),
            synthesis.degrade(clean, recipe),
            [labels.index(kind) for kind in kinds],
        )


def check_pair(pair: Pair, pixels: Sequence[np.ndarray], crop: int) -> None:
    """Refuse pictures that no patch can be cut from.

    Args:
        pixels: of the pair's pictures, the clean one first, each (H, W, 3).
        crop: side of a patch, pixels.

    Raises:
        PictureError: they are smaller than the crop, or differ in size.
    """
    sizes = [picture.shape[1::-1] for picture in pixels]
    check_sizes(pair, sizes[-1], sizes[0])
    width, height = sizes[0]
    if min(height, width) < crop:
        raise PictureError(
            f"{pair.clean} is {width} x {height} pixels, smaller than the crop of {crop}: leave it "
            "out or set a smaller data.crop"
        )


@dataclass(frozen=True)
class Source:
    """One set of a mixture.

    Args:
        pairs: at least one; with degraded pictures, or without and with a ``degradation``.
        label: the degradation's name, for counting experts.
        degradation: put on the clean patches.
        repeat: how often an epoch shows each picture.
    """

    pairs: tuple[Pair, ...]
    label: str
    degradation: Degradation | None = None
    repeat: int = 1


class Mixture:
    """Sets in fixed proportions, as the published models are trained on.

    An epoch shows every picture of a source ``repeat`` times, all sources shuffled together.
    Pictures smaller than a patch are refused.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(source.pairs) * source.repeat for source in sources])
        self._shuffled: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(source.label for source in self.sources))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Pair:
        which = self._source(index)
        pairs = self.sources[which].pairs
        return pairs[(index - (int(self._ends[which - 1]) if which else 0)) % len(pairs)]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for source in self.sources for pair in source.pairs]

    def _source(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def take(self, seed: int, numbers: Sequence[int]) -> np.ndarray:
        at = (divmod(int(number), len(self)) for number in numbers)
        taken = [self._order(seed, epoch)[position] for epoch, position in at]
        return np.asarray(taken, dtype=np.int64)

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        """The pictures of an epoch, shuffled; the last order is kept."""
        if self._shuffled is None or self._shuffled[0] != (seed, epoch):
            drawn = uniforms(states(seed, np.asarray([epoch]), _ORDER), 0, len(self))[0]
            self._shuffled = (seed, epoch), drawn.argsort(kind="stable")
        return self._shuffled[1]

    def fitted(self, pair: Pair, pixels: list[np.ndarray], crop: int) -> list[np.ndarray]:
        check_pair(pair, pixels, crop)
        return pixels

    def degrade(
        self,
        clean: Tensor,
        degraded: Tensor | None,
        numbers: Sequence[int],
        taken: np.ndarray,
        seed: int,
    ) -> Patches:
        images = of_bytes(clean)
        made = images.clone() if degraded is None else of_bytes(degraded)
        labels, found = self.labels, []
        for i, (number, index) in enumerate(zip(numbers, taken, strict=True)):
            source = self.sources[self._source(index)]
            found.append(labels.index(source.label))
            if source.degradation is not None:
                one = degrade(images[i : i + 1], source.degradation, seed, number)[0]
                made[i] = of_bytes((one * 255).round_())
        return Patches(images, made, found)
