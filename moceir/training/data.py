"""Training and validation data of a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from moceir.data.pictures import CleanPatches, find_pictures, open_rgb
from moceir.training.config import TrainingConfig


class PatchStream(IterableDataset[Tensor]):
    """The patches from number ``start`` on, without end."""

    def __init__(self, patches: CleanPatches, start: int) -> None:
        self.patches, self.start = patches, start

    def __iter__(self) -> Iterator[Tensor]:
        index = self.start
        while True:
            yield self.patches[index]
            index += 1


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


class RestorationData(LightningDataModule):
    """Clean patches; the module degrades them on its device.

    Raises:
        PictureError: a folder is missing or holds no pictures.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        data = config.data
        self.patches = CleanPatches(data.train, data.crop, config.seed, data.cache_mb)
        self.validation = (
            find_pictures(data.validation)[: data.validation_pictures] if data.validation else []
        )

    def train_dataloader(self) -> DataLoader[Tensor]:
        # The step that a resumed run stands at decides which patch comes next.
        step = self.trainer.global_step if self.trainer else 0
        stream = PatchStream(self.patches, step * self.config.data.batch_size)
        return DataLoader(stream, batch_size=self.config.data.batch_size)

    def val_dataloader(self) -> DataLoader[Tensor] | list:
        return DataLoader(CentreCrops(self.validation)) if self.validation else []
