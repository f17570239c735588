"""The network in training: one step, the optimiser and its schedule, validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from moceir.data import synthesis
from moceir.data.degradations import degrade
from moceir.data.patches import Source
from moceir.data.synthesis import SEVERAL
from moceir.errors import ConfigError, NonFiniteLoss
from moceir.model import MoCEIR
from moceir.model.routing import supervise
from moceir.training.config import TrainingConfig
from moceir.training.data import Batch
from moceir.training.loss import restoration_loss
from moceir.training.optimizer import MuonAdamW


def quantize(images: Tensor) -> Tensor:
    """Round to 8 bits, as the files are that people restore."""
    return (images * 255).round_().div_(255)


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB of (B, 3, H, W) in [0, 1], restored clamped."""
    error = (restored.float().clamp(0, 1) - clean).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


class RestorationModule(LightningModule):
    """Trains ``model`` on degradations drawn on the device, a function of the seed and the step.

    Args:
        config: of the run.
        sources: the sets of a mixture; without them, clean patches are degraded at random.
        teachers: the networks of ``distill.teachers``, by the label that they teach.

    Raises:
        ConfigError: a label to teach that no patch has.
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
        # In a tuple they are no part of this module: neither trained nor averaged nor saved.
        self._teachers = tuple(
            (network, [self.labels.index(label) for label, n in teachers.items() if n is network])
            for network in dict.fromkeys(teachers.values())
        )
        for network, _ in self._teachers:
            network.eval().requires_grad_(False)
        self.last_routes: tuple[list[int], Tensor] = ([], torch.empty(0))
        """Of the last pass: the label of each patch, and (D, b, k) the experts taken."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

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
                spoilt = degrade(clean[i : i + 1], source.degradation, seed, offset + i)
                degraded[i] = quantize(spoilt[0])
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
    ) -> tuple[Tensor, Tensor | None]:
        """What the patches should become, and (b,) the weights of those that a teacher says."""
        if not self._teachers:
            return clean, None
        label = torch.tensor(labels, device=clean.device)
        weight = torch.zeros(len(labels), device=clean.device)
        target = clean.clone()
        for network, taught in self._teachers:
            mine = torch.isin(label, label.new_tensor(taught))
            if mine.any():
                with torch.no_grad():
                    target[mine] = network(degraded[mine]).to(target.dtype)
                change = (target[mine] - degraded[mine]).abs().flatten(1).mean(1)
                # A hundredth, for a teacher that changes nothing still has something to say.
                weight[mine] = self.config.distill.weight / (change + 0.01)
        return target, weight

    def on_fit_start(self) -> None:
        for network, _ in self._teachers:
            network.to(self.device)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        step = self.global_step
        if batch["offset"] < self.config.data.batch_size // self.config.accumulate:
            # The first pass of a step: routing noise, too, is a function of the seed and the step.
            torch.manual_seed(self.config.seed + step)
        clean, degraded, labels = self.prepare(batch, step)
        if self.model.config.router == "supervised":
            targets = self.expert_targets()
            supervise(self.model, torch.tensor([targets[i] for i in labels], device=self.device))
        restored, routing = self.model(degraded, return_routing=True)
        optimizer = self.config.optimizer
        target, taught = self.targets(clean, degraded, labels)
        loss = restoration_loss(
            restored,
            target,
            routing.aux_loss,
            optimizer.spectrum_weight,
            optimizer.auxiliary_weight,
            optimizer.loss,
            taught,
        )
        if not torch.isfinite(loss):
            raise NonFiniteLoss(self._advice("loss", loss))
        self.last_routes = (labels, routing.expert)
        if (
            self.config.data.validation is None
            and (step + 1) % self.config.validate_every == 0
            and batch["offset"] == 0
        ):
            self._show("training", degraded[:4], restored[:4].detach(), clean[:4])
        shared = self.trainer.world_size > 1  # then each process has a part of the step
        self.log("train/loss", loss, prog_bar=True, sync_dist=shared)
        self.log("train/aux_loss", routing.aux_loss, sync_dist=shared)
        quality = psnr(restored.detach(), clean).mean()
        self.log("train/psnr", quality, prog_bar=True, sync_dist=shared)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.optimizer.clip_norm
        )
        if not torch.isfinite(norm):
            raise NonFiniteLoss(self._advice("gradient's norm", norm))
        self.log("train/gradient_norm", norm)

    def _advice(self, what: str, value: Tensor) -> str:
        return (
            f"the {what} is {value.item()} at step {self.global_step}: lower optimizer.lr or use "
            "precision 32-true; the last checkpoint is from before and can be resumed"
        )

    def validation_step(self, batch: Tensor, index: int) -> None:
        clean = batch.float() / 255
        pairs = []
        for kind in self.config.data.kinds:
            degraded = synthesis.degrade(clean, synthesis.at(kind, "medium", [index] * len(clean)))
            restored = self.model(degraded)
            gain = (psnr(restored, clean) - psnr(degraded, clean)).mean()
            self.log(f"psnr_gain/{kind}", gain, sync_dist=self.trainer.world_size > 1)
            pairs.append((degraded, restored))
        spoilt, better = (torch.cat(images) for images in zip(*pairs, strict=True))
        self._show(str(index), spoilt, better, clean.expand_as(spoilt))

    def _show(self, name: str, degraded: Tensor, restored: Tensor, clean: Tensor) -> None:
        """A picture for the curves: each image in a row, degraded, restored and clean."""
        if self.logger is not None:
            board: Any = self.logger
            rows = torch.cat([degraded, restored.float().clamp(0, 1), clean], dim=3)
            board.experiment.add_image(
                f"degraded, restored, clean/{name}", torch.cat([*rows], dim=1), self.global_step
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config.optimizer
        return (MuonAdamW if config.muon else torch.optim.AdamW)(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # The learning rate is a function of the step, so that a resumed run takes the schedule
        # of its configuration and not that of its checkpoint.
        config = self.config.optimizer
        if config.schedule == "published":
            assert self.config.epochs is not None  # the configuration has checked it
            epoch = self.global_step // (self.config.steps // self.config.epochs)
            factor = published_lr_factor(epoch)
        else:
            factor = lr_factor(self.global_step, config.warmup_steps, self.config.steps)
        lr = config.lr * factor
        for group in optimizer.param_groups:
            group["lr"] = lr
        self.log("train/lr", lr)


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate at a step from 0: warm-up, then a cosine to 0 after the last."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))


def published_lr_factor(epoch: int) -> float:
    """Share of the learning rate in an epoch from 0, as the published code has it."""
    warmup, last = 15, 150
    if epoch < warmup:
        return epoch / (warmup - 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (last - warmup)))
