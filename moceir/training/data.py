"""Training and validation data of a run."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from moceir.data.check import check_pictures
from moceir.data.crops import middle
from moceir.data.datasets import TRAINING, Pair, pair_folders, pairs_of
from moceir.data.degradations import parse
from moceir.data.patches import FilePatches, PatchSource, Read
from moceir.data.resident import ResidentPatches, fit
from moceir.data.samples import CleanPictures, Mixture, Samples, Source
from moceir.errors import ConfigError, MoceirError, first_line
from moceir.pictures.images import find_pictures, open_rgb
from moceir.training.config import DataConfig, SetConfig, Share, TrainingConfig

MAX_EPOCH = 100_000_000
"""Patches of an epoch of a mixture."""

TOGETHER = 2**18
"""Pixels of the batches that are degraded together, those of 64 patches of 64 x 64. A third of the
time for 16 such patches goes into planning, which takes as long for more of them."""


class BatchStream(IterableDataset["Read | MoceirError"]):
    """The batches of one process from step ``start`` on, without end, as far as they are read.

    In place of a batch that cannot be read comes the error: if a worker raised it, its message
    would contain a traceback.

    Each worker of a DataLoader makes every n-th batch, so that their order does not depend on n.

    Args:
        source: of the patches.
        start: the first step.
        share: the part of each step.
    """

    def __init__(self, source: PatchSource, start: int, share: Share) -> None:
        self.source, self.start, self.share = source, start, share

    def __iter__(self) -> Iterator[Read | MoceirError]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            step, part = divmod(number, self.share.accumulate)
            first = (self.start + step) * self.share.step + self.share.offset(part)
            try:
                yield self.source.read(range(first, first + self.share.size))
            except MoceirError as error:
                yield error
            number += workers


def _unchanged(read: Any) -> Any:
    """Arrays, which workers hand over through pipes. By default a DataLoader makes tensors of them,
    which go through /dev/shm. That is small in containers; when it is full, a worker prints a trace
    and the run waits for ever."""
    return read


class CentreCrops(Dataset[Tensor]):
    """The middle of the first pictures of a folder, (3, side, side) uint8, side at most 256."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        picture = open_rgb(self.paths[index])
        square = middle(picture, min(256, *picture.size))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def clean_pictures(data: DataConfig, paths: Sequence[Path]) -> CleanPictures:
    """The pictures of ``data.train``, with the degradations that the run is to draw."""
    kinds = tuple(data.kinds)
    return CleanPictures(
        tuple(paths), kinds, data.max_mixture, data.mixed, data.clean, data.night, data.faded
    )


def sources_of(data: DataConfig) -> list[Source]:
    """The sets of ``data.mixture``.

    Raises:
        ConfigError: a set that is none, no degradation for clean pictures, or too long an epoch.
        PictureError: a folder is missing or empty, or a picture unpaired.
    """
    sources = [_source(data.root, part) for part in data.mixture]
    patches = sum(len(source.pairs) * source.repeat for source in sources)
    if patches > MAX_EPOCH:  # whose order is made anew for each
        raise ConfigError(
            f"data.mixture: an epoch would have {patches:,} patches, at most {MAX_EPOCH:,} are "
            "possible: repeat the sets less often"
        )
    return sources


def _source(root: Path, part: SetConfig) -> Source:
    degradation = parse(part.degradation) if part.degradation else None
    if part.set is not None:
        if part.set not in TRAINING:
            raise ConfigError(
                f"data.mixture: unknown set {part.set!r}: known are {', '.join(TRAINING)}"
            )
        spec = TRAINING[part.set]
        pairs, label = pairs_of(spec, root), spec.task
    elif part.clean is None:
        raise ConfigError("data.mixture: name a set, or a folder of clean images")
    elif part.degraded is not None:
        pairs, label = pair_folders(part.degraded, part.clean), part.degraded.resolve().name
    else:
        pairs = [Pair(path) for path in find_pictures(part.clean)]
        label = (part.degradation or "").partition(":")[0]
    name = part.set or part.clean
    if degradation is None and pairs[0].degraded is None:
        raise ConfigError(f"data.mixture: {name} has only clean images: give it a degradation")
    if degradation is not None and pairs[0].degraded is not None:
        raise ConfigError(f"data.mixture: {name} is already degraded: remove its degradation")
    return Source(tuple(pairs), part.label or label, degradation, part.repeat)


class RestorationData:
    """The patches of a run, and the pictures that it is validated on.

    Clean pictures stay on the device and are cut there if all of them fit (``data.cache_mb``).

    Raises:
        ConfigError: a mixture that is none.
        PictureError: a folder is missing or holds no pictures, or a picture is unpaired.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        data = config.data
        self.source: PatchSource
        if data.mixture:
            self.source = self._from_files(Mixture(sources_of(data)))
        else:
            paths = find_pictures(data.train)
            pictures = clean_pictures(data, paths)
            if fit(paths, data.crop, data.cache_mb):
                self.source = ResidentPatches(pictures, data.crop, config.seed)
            else:
                self.source = self._from_files(pictures)
        self.validation = (
            find_pictures(data.validation)[: data.validation_pictures] if data.validation else []
        )

    def _from_files(self, samples: Samples) -> FilePatches:
        data = self.config.data
        # Worker processes have a cache each.
        cache_mb = data.cache_mb // max(1, data.workers)
        return FilePatches(samples, data.crop, self.config.seed, cache_mb)

    def batches(self, start: int = 0, rank: int = 0) -> Iterator[Read]:
        """The batches of the process ``rank`` from step ``start`` on, without end, for
        ``source.batch``.

        Raises:
            PictureError: a picture that cannot be used.
            ConfigError: a worker has died, or cannot be started.
        """
        workers = self.config.data.workers
        if isinstance(self.source, ResidentPatches):  # there is nothing to read ahead
            workers = 0
        loader: DataLoader[Read | MoceirError] = DataLoader(
            BatchStream(self.source, start, self.config.share(rank)),
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            persistent_workers=workers > 0,
        )
        try:
            for read in loader:
                if isinstance(read, MoceirError):
                    raise read
                yield read
        except OSError as error:
            if error.filename is not None or error.errno != errno.ENOSPC:
                raise
            raise ConfigError(
                "/dev/shm has no room for the semaphores of processes that read images: set "
                "data.workers to 0, or empty or enlarge it (docker run --shm-size 1g)"
            ) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise ConfigError(
                f"a process that reads images has ended ({first_line(error)}), perhaps because "
                "memory ran out: lower data.workers (0: none) or data.cache_mb"
            ) from error

    @property
    def together(self) -> int:
        """How many batches to degrade together: those of whole steps, or one."""
        share, crop = self.config.share(0), self.config.data.crop
        if not isinstance(self.source, ResidentPatches):  # they come as they are read
            return 1
        steps = TOGETHER // (share.size * share.accumulate * crop**2)
        return max(1, steps * share.accumulate)

    @property
    def pictures(self) -> int:
        """How many pictures, or pairs of them, are trained on."""
        return len(self.source.samples.pairs)

    def check(self) -> None:
        """Decode every picture once, but for those that are decoded before the first step anyway.

        Raises:
            PictureError: some cannot be used; all are counted and the first few named.
        """
        samples, pairs = self.source.samples, [Pair(path) for path in self.validation]
        if isinstance(samples, Mixture):
            check_pictures(samples.pairs, self.config.data.crop)
        elif not isinstance(self.source, ResidentPatches):
            pairs += samples.pairs
        check_pictures(pairs)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """(1, 3, side, side) uint8, the middle of each picture of ``data.validation``."""
        return DataLoader(CentreCrops(self.validation))
