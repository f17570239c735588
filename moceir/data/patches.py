"""Patches of several sets in fixed proportions: what the published models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moceir.data.crops import PixelCache, cut, places
from moceir.data.datasets import Pair, check_sizes
from moceir.data.degradations import Degradation
from moceir.errors import PictureError


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


class Patch(NamedTuple):
    """A training sample."""

    pixels: np.ndarray
    """(2, 3, crop, crop) uint8: clean and degraded; or (1, 3, crop, crop), clean alone."""
    source: int
    """Index of the set it comes from."""


class MixturePatches:
    """Random square crops of pairs, flipped and turned, in epochs.

    An epoch shows every picture of a source ``repeat`` times, all sources shuffled together. Patch
    i is a function of ``(seed, i)`` alone, i of any size.

    Args:
        sources: at least one.
        crop: side of a patch.
        seed: of order and crops.
        cache_mb: decoded pictures kept in memory, MiB.

    Raises:
        PictureError: when it is used: a picture that cannot be read, or is smaller than the crop,
            or differs in size from its clean one.
    """

    def __init__(
        self, sources: Sequence[Source], crop: int, seed: int, cache_mb: int = 2000
    ) -> None:
        self.sources, self.crop, self.seed = tuple(sources), crop, seed
        self._ends = np.cumsum([len(source.pairs) * source.repeat for source in sources])
        self._cache = PixelCache(cache_mb)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Patches of an epoch."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Patch:
        epoch, position = divmod(index, len(self))
        if epoch != self._epoch:
            shuffled = np.random.default_rng((self.seed, epoch, 0)).permutation(len(self))
            self._epoch, self._order = epoch, shuffled
        sample = self._order[position]
        which = int(np.searchsorted(self._ends, sample, side="right"))
        source = self.sources[which]
        before = self._ends[which - 1] if which else 0
        pair = source.pairs[(sample - before) % len(source.pairs)]
        _, *place = places(self.seed, np.asarray([index]))[0]
        return Patch(cut(self._pixels(pair), self.crop, place), which)

    def _pixels(self, pair: Pair) -> list[np.ndarray]:
        pictures = [self._cache[path] for path in pair if path is not None]
        check_pair(pair, pictures, self.crop)
        return pictures


def check_pair(pair: Pair, pictures: Sequence[np.ndarray], crop: int) -> None:
    """Refuse pictures that no patch can be cut from.

    Raises:
        PictureError: they are smaller than the crop, or differ in size.
    """
    if len(pictures) == 2:
        clean, degraded = (picture.shape[1::-1] for picture in pictures)
        check_sizes(pair, degraded, clean)
    height, width = pictures[0].shape[:2]
    if min(height, width) < crop:
        raise PictureError(
            f"{pair.clean} is {width} x {height} pixels, smaller than the crop of {crop}: leave it "
            "out or set a smaller data.crop"
        )
