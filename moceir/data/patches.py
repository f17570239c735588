"""Training patches by number, one interface whether they are cut from files or on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moceir.data.crops import PixelCache, cut, places
from moceir.data.samples import Patches, Samples


class Read(NamedTuple):
    """Patches as far as they are made ahead, maybe in another process."""

    numbers: list[int]
    clean: np.ndarray | None = None
    """(b, 3, crop, crop) uint8; None: they are yet to be cut."""
    degraded: np.ndarray | None = None
    """Likewise, the clean one where the degradation is synthetic; None: all are."""


def joined(reads: Sequence[Read]) -> Read:
    """Several batches as one. More than one only if they are yet to be cut."""
    if len(reads) == 1:
        return reads[0]
    assert all(read.clean is None for read in reads)
    return Read([number for read in reads for number in read.numbers])


def split(patches: Patches, count: int) -> Iterator[Patches]:
    """Patches as ``count`` batches of one size."""
    size = len(patches.labels) // count
    for start in range(0, size * count, size):
        part = slice(start, start + size)
        yield Patches(patches.clean[part], patches.degraded[part], patches.labels[part])


class PatchSource(ABC):
    """Random square patches of pictures, flipped and turned, clean and degraded.

    Patch i is a function of the seed and i alone, i of any size: where it is made, with which
    others and in which order makes no difference, and a run that is resumed at patch i sees what it
    would have seen. Every step of a training run has its own numbers. From the one seed come the
    picture and the place in it; from the seed + 1 the degradation.

    Args:
        samples: what the patches show.
        crop: side of a patch, pixels.
        seed: any integer.

    Raises:
        PictureError: when it is used: a picture that cannot be read or does not fit.
    """

    def __init__(self, samples: Samples, crop: int, seed: int) -> None:
        self.samples, self.crop, self.seed = samples, crop, seed

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Read:
        """What can be done ahead, on the host, for the patches of these numbers."""

    @abstractmethod
    def _pixels(self, read: Read, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Clean and degraded pixels on the device, as ``Read`` has them."""

    def batch(self, read: Read, device: torch.device) -> Patches:
        """The rest, on the device, for which nothing waits."""
        clean, degraded = self._pixels(read, device)
        taken = self.samples.take(self.seed, read.numbers)
        return self.samples.degrade(clean, degraded, read.numbers, taken, self.seed + 1)


class FilePatches(PatchSource):
    """Patches cut from files on the host.

    Args:
        cache_mb: decoded pictures kept in memory, MiB.
    """

    def __init__(self, samples: Samples, crop: int, seed: int, cache_mb: int = 2000) -> None:
        super().__init__(samples, crop, seed)
        self._cache = PixelCache(cache_mb)

    def read(self, numbers: Sequence[int]) -> Read:
        taken = self.samples.take(self.seed, numbers)
        place = places(self.seed, np.asarray(numbers))[:, 1:]
        cuts = [self._cut(index, of) for index, of in zip(taken.tolist(), place, strict=True)]
        clean = np.stack([pixels[0] for pixels in cuts])
        if all(len(pixels) == 1 for pixels in cuts):
            return Read(list(numbers), clean)
        return Read(list(numbers), clean, np.stack([pixels[-1] for pixels in cuts]))

    def _cut(self, index: int, place: np.ndarray) -> np.ndarray:
        pair = self.samples[index]
        pixels = [self._cache[path] for path in pair if path is not None]
        return cut(self.samples.fitted(pair, pixels, self.crop), self.crop, place.tolist())

    def _pixels(self, read: Read, device: torch.device) -> tuple[Tensor, Tensor | None]:
        assert read.clean is not None  # it was read here
        clean = to_device(torch.from_numpy(read.clean), device)
        if read.degraded is None:
            return clean, None
        return clean, to_device(torch.from_numpy(read.degraded), device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a host's tensor that the host does not wait for."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
