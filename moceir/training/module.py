"""What a training run trains: the network, and what its patches are to become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from moceir.data.patches import to_device
from moceir.data.synthesis import SEVERAL
from moceir.errors import ConfigError
from moceir.evaluation.metrics import psnrs
from moceir.model import MoCEIR
from moceir.training.config import TrainingConfig


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """(B,) float32 PSNR in dB of (B, 3, H, W) in [0, 1], restored clamped; at most 100."""
    return psnrs(restored.float().clamp(0, 1), clean).clamp_max(100).float()


class RestorationModule(nn.Module):
    """``model``, the labels of the patches it is trained on, and its teachers.

    Args:
        config: of the run.
        labels: what can be wrong with a patch, as ``Samples.labels``; None: one of ``data.kinds``,
            or several.
        teachers: the networks of ``distill.teachers``, by the label that they teach.

    Raises:
        ConfigError: a label, of a teacher or of ``expert_of``, that no patch has.
    """

    def __init__(
        self,
        config: TrainingConfig,
        labels: Sequence[str] | None = None,
        teachers: Mapping[str, MoCEIR] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.model = MoCEIR(config.network())
        labels = [*config.data.kinds, SEVERAL] if labels is None else labels
        self.labels = list(dict.fromkeys(labels))
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
