"""What a training run trains: the network, what its patches become, and their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from moceir.data import synthesis
from moceir.data.degradations import degrade
from moceir.data.patches import Source
from moceir.data.synthesis import SEVERAL
from moceir.errors import ConfigError
from moceir.model import MoCEIR
from moceir.training.config import TrainingConfig
from moceir.training.data import Batch, to_device


def quantize(images: Tensor) -> Tensor:
    """Round to 8 bits, as the files are that people restore."""
    return (images * 255).round_().div_(255)


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB of (B, 3, H, W) in [0, 1], restored clamped."""
    error = (restored.float().clamp(0, 1) - clean).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


class RestorationModule(nn.Module):
    """``model`` and the patches it is trained on, a function of the seed and the step.

    Degradations are drawn on the device on which the batch is.

    Args:
        config: of the run.
        sources: the sets of a mixture; without them, clean patches are degraded at random.
        teachers: the networks of ``distill.teachers``, by the label that they teach.

    Raises:
        ConfigError: a label, of a teacher or of ``expert_of``, that no patch has.
    """

    def __init__(
        self,
        config: TrainingConfig,
        sources: Sequence[Source] = (),
        teachers: Mapping[str, MoCEIR] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.sources = tuple(sources)
        self.model = MoCEIR(config.network())
        names = [source.label for source in sources] or [*config.data.kinds, SEVERAL]
        self.labels = list(dict.fromkeys(names))
        """What can be wrong with a patch."""
        teachers = dict(teachers or {})
        unknown = [label for label in teachers if label not in self.labels]
        if unknown:
            known = ", ".join(self.labels)
            raise ConfigError(f"distill.teachers: {unknown[0]!r} is none of {known}")
        for label in config.expert_of:
            if label not in self.labels:
                known = ", ".join(self.labels)
                raise ConfigError(f"expert_of: {label!r} is none of {known}")
        # In a tuple they are no part of this module: neither trained nor averaged nor saved.
        self._teachers = tuple(
            (network, [self.labels.index(label) for label, n in teachers.items() if n is network])
            for network in dict.fromkeys(teachers.values())
        )
        for network, _ in self._teachers:
            network.eval().requires_grad_(False)

    def degrade(self, clean: Tensor, step: int, offset: int = 0) -> tuple[Tensor, list[int]]:
        """Degrade each patch of a step with a kind, or a mixture of kinds, of its own.

        Kinds are taken in turn (``synthesis.draw``): what pulls at the weights in different
        directions stays in balance.

        clean: (b, 3, H, W) uint8 or in [0, 1], the patches of the step from number ``offset`` on.
        Returns the degraded ones, in 8-bit steps, and the label of each.
        """
        data = self.config.data
        first = step * data.batch_size + offset
        recipe, kinds = synthesis.draw(
            self.config.seed + 1,
            range(first, first + len(clean)),
            data.kinds,
            data.max_mixture,
            data.mixed,
            data.clean,
        )
        return synthesis.degrade(clean, recipe), [self.labels.index(kind) for kind in kinds]

    def prepare(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, list[int]]:
        """The clean and the degraded patches of a batch, (b, 3, H, W), and the label of each."""
        clean = batch["clean"].float() / 255
        offset = batch["offset"]
        if not self.sources:
            return clean, *self.degrade(batch["clean"], step, offset)
        sources = [self.sources[i] for i in batch["source"]]
        degraded = (batch["degraded"].float() / 255) if "degraded" in batch else clean.clone()
        seed = self.config.seed + 1 + step * self.config.data.batch_size
        for i, source in enumerate(sources):
            if source.degradation is not None:
                degraded_one = degrade(clean[i : i + 1], source.degradation, seed, offset + i)
                degraded[i] = quantize(degraded_one[0])
        return clean, degraded, [self.labels.index(source.label) for source in sources]

    def expert_targets(self) -> list[int]:
        """The expert, 0 the cheapest, that the router ``supervised`` is taught for each label."""
        n = self.model.config.num_experts
        given = self.config.expert_of
        return [
            given.get(label, i * n // len(self.labels) + 1) - 1
            for i, label in enumerate(self.labels)
        ]

    def targets(
        self, clean: Tensor, degraded: Tensor, labels: list[int]
    ) -> tuple[Tensor, Tensor] | None:
        """Where there are teachers: (b, 3, H, W), what the patches should become, and (b,), the
        weights of those that a teacher has restored, 0 for the others."""
        if not self._teachers:
            return None
        weight = torch.zeros(len(labels), device=clean.device)
        target = clean.clone()
        for network, taught in self._teachers:
            mine = [i for i, label in enumerate(labels) if label in taught]
            if mine:
                index = to_device(torch.tensor(mine), clean.device)
                with torch.no_grad():
                    target[index] = network.to(clean.device)(degraded[index]).to(target.dtype)
                change = (target[index] - degraded[index]).abs().flatten(1).mean(1)
                # A hundredth, for a teacher that changes nothing still has something to say.
                weight[index] = self.config.distill.weight / (change + 0.01)
        return target, weight
