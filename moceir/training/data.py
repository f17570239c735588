"""Training and validation data of a run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from moceir.data.check import check_pictures
from moceir.data.crops import CleanPatches
from moceir.data.datasets import TRAINING, Pair, pair_folders, pairs_of
from moceir.data.degradations import parse
from moceir.data.patches import MixturePatches, Source
from moceir.data.resident import ResidentPatches, fit
from moceir.errors import ConfigError, MoceirError, first_line
from moceir.pictures.images import find_pictures, open_rgb
from moceir.training.config import DataConfig, SetConfig, Share, TrainingConfig

MAX_EPOCH = 100_000_000
"""Patches of an epoch of a mixture."""


class Batch(TypedDict, total=False):
    """What one process has in one pass through the network."""

    clean: Tensor
    """(b, 3, crop, crop) uint8."""
    degraded: Tensor
    """Likewise, the clean one where the degradation is synthetic; missing if all are."""
    source: list[int]
    """The set of each patch, in a mixture."""
    offset: int
    """Number of its first patch among those of the step."""
    numbers: list[int]
    """Of patches that are yet to be cut on the device, in place of ``clean``."""
    error: MoceirError
    """Why there is no batch, in place of all else: what a DataLoader's worker raises has its trace
    in the message."""


class BatchStream(IterableDataset[Batch]):
    """The batches of one process from step ``start`` on, without end.

    Each worker of a DataLoader makes every n-th batch, so that their order does not depend on n.

    Args:
        patches: what to take; None: the patches' numbers alone.
        start: the first step.
        share: the part of each step.
    """

    def __init__(
        self, patches: CleanPatches | MixturePatches | None, start: int, share: Share
    ) -> None:
        self.patches, self.start, self.share = patches, start, share

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            step, part = divmod(number, self.share.accumulate)
            try:
                yield self._batch(self.start + step, self.share.offset(part))
            except MoceirError as error:
                yield {"error": error}
            number += workers

    def _batch(self, step: int, offset: int) -> Batch:
        first = step * self.share.step + offset
        indices = range(first, first + self.share.size)
        if self.patches is None:
            return {"numbers": list(indices), "offset": offset}
        if isinstance(self.patches, CleanPatches):
            return {"clean": torch.stack([self.patches[i] for i in indices]), "offset": offset}
        patches = [self.patches[i] for i in indices]
        batch: Batch = {
            "clean": torch.from_numpy(np.stack([patch.pixels[0] for patch in patches])),
            "source": [patch.source for patch in patches],
            "offset": offset,
        }
        if any(len(patch.pixels) == 2 for patch in patches):
            batch["degraded"] = torch.from_numpy(np.stack([patch.pixels[-1] for patch in patches]))
        return batch


def _as_arrays(batch: Any) -> Any:
    """As workers hand it over. Tensors would go through /dev/shm, which is small in containers:
    when it is full, a worker prints a trace and the run waits for it for ever."""
    return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in batch.items()}


def _as_tensors(batch: Any) -> Any:
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


class CentreCrops(Dataset[Tensor]):
    """The middle of the first pictures of a folder, (3, side, side) uint8, side at most 256."""

    def __init__(self, paths: list) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        picture = open_rgb(self.paths[index])
        side = min(256, *picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        pixels = picture.crop((left, top, left + side, top + side)).tobytes()
        return (
            torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
            .view(side, side, 3)
            .permute(2, 0, 1)
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
        raise ConfigError("data.mixture: name a set, or a folder of clean pictures")
    elif part.degraded is not None:
        pairs, label = pair_folders(part.degraded, part.clean), part.degraded.resolve().name
    else:
        pairs = [Pair(path) for path in find_pictures(part.clean)]
        label = (part.degradation or "").partition(":")[0]
    name = part.set or part.clean
    if degradation is None and pairs[0].degraded is None:
        raise ConfigError(f"data.mixture: {name} has clean pictures alone: give it a degradation")
    if degradation is not None and pairs[0].degraded is not None:
        raise ConfigError(f"data.mixture: {name} is degraded already: take its degradation out")
    return Source(tuple(pairs), part.label or label, degradation, part.repeat)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a host's tensor that the host does not wait for."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class RestorationData:
    """Patches for training; synthetic degradations happen in the module, on its device.

    Clean pictures stay on the device and are cut there if all of them fit (``data.cache_mb``).

    Raises:
        ConfigError: a mixture that is none.
        PictureError: a folder is missing or holds no pictures, or a picture is unpaired.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        data = config.data
        # Worker processes have a cache each.
        cache_mb = data.cache_mb // max(1, data.workers)
        self.patches: CleanPatches | MixturePatches
        self._resident: ResidentPatches | None = None
        self._fit = False
        if data.mixture:
            self.patches = MixturePatches(sources_of(data), data.crop, config.seed, cache_mb)
        else:
            self.patches = CleanPatches(data.train, data.crop, config.seed, cache_mb)
            self._fit = fit(self.patches.paths, data.crop, data.cache_mb)
        self.validation = (
            find_pictures(data.validation)[: data.validation_pictures] if data.validation else []
        )

    def batches(self, start: int = 0, rank: int = 0) -> Iterator[Batch]:
        """The batches of the process ``rank`` from step ``start`` on, without end.

        Raises:
            PictureError: a picture that cannot be used.
            ConfigError: a worker has died.
        """
        workers, share = self.config.data.workers, self.config.share(rank)
        patches, workers = (None, 0) if self._fit else (self.patches, workers)
        loader: DataLoader[Batch] = DataLoader(
            BatchStream(patches, start, share),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_arrays,
            persistent_workers=workers > 0,
        )
        try:
            for batch in loader:
                if "error" in batch:
                    raise batch["error"]
                yield _as_tensors(batch)
        except OSError as error:
            if error.filename is not None or error.errno != errno.ENOSPC:
                raise
            raise ConfigError(
                "/dev/shm has no room for the semaphores of processes that read pictures: set "
                "data.workers to 0, or empty or enlarge it (docker run --shm-size 1g)"
            ) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise ConfigError(
                f"a process that reads pictures has ended ({first_line(error)}), perhaps for want "
                "of memory: set fewer data.workers, 0 for none, or a smaller data.cache_mb"
            ) from error

    @property
    def pictures(self) -> int:
        """How many pictures, or pairs of them, are trained on."""
        if isinstance(self.patches, CleanPatches):
            return len(self.patches.paths)
        return sum(len(source.pairs) for source in self.patches.sources)

    def check(self) -> None:
        """Decode every picture once, but for those that are decoded before the first step anyway.

        Raises:
            PictureError: some cannot be used; all are counted and the first few named.
        """
        pairs = [Pair(path) for path in self.validation]
        if isinstance(self.patches, MixturePatches):
            mixture = [pair for source in self.patches.sources for pair in source.pairs]
            check_pictures(mixture, self.config.data.crop)
        elif not self._fit:
            pairs += [Pair(path) for path in self.patches.paths]
        check_pictures(pairs)

    def cut(self, batch: Batch, device: torch.device) -> Batch:
        """A batch with its patches on the device, where they are cut if they are not there yet."""
        if "numbers" in batch:
            if self._resident is None:
                assert isinstance(self.patches, CleanPatches)
                paths, crop = self.patches.paths, self.config.data.crop
                self._resident = ResidentPatches(paths, crop, self.config.seed, device)
            return {"clean": self._resident(batch["numbers"]), "offset": batch["offset"]}
        moved: Any = {
            name: to_device(value, device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        return moved

    def val_dataloader(self) -> DataLoader[Tensor]:
        """(1, 3, side, side) uint8, the middle of each picture of ``data.validation``."""
        return DataLoader(CentreCrops(self.validation))
