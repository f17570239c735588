"""The network in training: one step, the optimiser and its schedule, validation."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from moceir.data.degradations import degrade, generator_for, parse, random_degradation
from moceir.errors import NonFiniteLoss
from moceir.model import MoCEIR
from moceir.training.config import TrainingConfig
from moceir.training.loss import restoration_loss
from moceir.training.optimizer import MuonAdamW


def quantize(images: Tensor) -> Tensor:
    """Round to 8 bits, as the files are that people restore."""
    return (images * 255).round() / 255


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB of (B, 3, H, W) in [0, 1], restored clamped."""
    error = (restored.float().clamp(0, 1) - clean).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


class RestorationModule(LightningModule):
    """Trains ``model`` on degradations drawn on the device, a function of the seed and the step."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = MoCEIR(config.network())

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def degrade(self, clean: Tensor, step: int) -> Tensor:
        """Degrade each patch of a step with a kind, or a mixture of kinds, of its own."""
        data = self.config.data
        seed = self.config.seed + 1
        first = step * data.batch_size
        recipes = [
            random_degradation(generator_for(seed, first + i), data.kinds, data.max_mixture)
            for i in range(len(clean))
        ]
        return quantize(degrade(clean, recipes, seed=seed + first))

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        clean = batch.float() / 255
        step = self.global_step
        # Routing noise, too, is a function of the seed and the step.
        torch.manual_seed(self.config.seed + step)
        degraded = self.degrade(clean, step)
        restored, routing = self.model(degraded, return_routing=True)
        optimizer = self.config.optimizer
        loss = restoration_loss(
            restored,
            clean,
            routing.aux_loss,
            optimizer.spectrum_weight,
            optimizer.auxiliary_weight,
            optimizer.loss,
        )
        if not torch.isfinite(loss):
            raise NonFiniteLoss(self._advice("loss", loss))
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/aux_loss", routing.aux_loss)
        self.log("train/psnr", psnr(restored.detach(), clean).mean(), prog_bar=True)
        share = torch.bincount(routing.expert.flatten(), minlength=self.model.config.num_experts)
        for expert, part in enumerate(share / share.sum()):
            self.log(f"experts/{expert}", part)
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
        rows = []
        for kind in self.config.data.kinds:
            degraded = quantize(degrade(clean, parse(kind), seed=index))
            restored = self.model(degraded)
            self.log(f"psnr_gain/{kind}", (psnr(restored, clean) - psnr(degraded, clean)).mean())
            rows.append(torch.cat([degraded, restored.float().clamp(0, 1), clean], dim=3)[0])
        if self.logger is not None:
            board: Any = self.logger
            board.experiment.add_image(
                f"degraded, restored, clean/{index}", torch.cat(rows, dim=1), self.global_step
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
        lr = config.lr * lr_factor(self.global_step, config.warmup_steps, self.config.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        self.log("train/lr", lr)


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate at a step from 0: warm-up, then a cosine to 0 after the last."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))
