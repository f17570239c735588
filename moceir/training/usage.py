"""Which experts each degradation takes during training, and what that computes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from moceir.evaluation.cost import cost
from moceir.files import whole_file
from moceir.training.config import TrainingConfig
from moceir.training.module import RestorationModule


class ExpertUsage(Callback):
    """Counts experts by degradation and decoder block.

    Every ``log_every`` steps the counts since then become lines of ``experts.csv``: step,
    degradation, block (1 the first that runs), and how many patches took each expert. The curves
    get the shares over all blocks, ``experts/<degradation>/<expert>`` and ``experts/all/<expert>``,
    and ``compute/forward_petamacs``, the multiply-accumulates of all forward passes so far (a
    backward pass costs about twice as much again).
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.path = config.run / "experts.csv"
        self.every = config.log_every
        self.cost = cost(config.network(), config.data.crop, config.data.crop)
        self.counts: Tensor | None = None
        self.macs = 0
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RestorationModule)
        self.labels = pl_module.labels
        self.step = trainer.global_step
        shape = (len(self.labels), len(self.cost.experts), len(self.cost.experts[0]))
        kept = torch.zeros(shape, dtype=torch.int64) if self.counts is None else self.counts
        if kept.shape != shape:  # resumed with other data
            kept = torch.zeros(shape, dtype=torch.int64)
        # Of the counts of a resumed run, the first process has those of all.
        self.counts = (kept if trainer.is_global_zero else torch.zeros_like(kept)).to(
            pl_module.device
        )
        if trainer.is_global_zero:
            self._drop_after(self.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, RestorationModule) and self.counts is not None
        labels, experts = pl_module.last_routes
        blocks = len(experts)
        rows = torch.tensor(labels, device=experts.device)[None, :, None].expand_as(experts)
        columns = torch.arange(blocks, device=experts.device)[:, None, None].expand_as(experts)
        ones = torch.ones_like(experts)
        self.counts.index_put_((rows, columns, experts), ones, accumulate=True)
        step = trainer.global_step
        if step != self.step and (step % self.every == 0 or step == trainer.max_steps):
            self._write(trainer, step)
        self.step = step

    def state_dict(self) -> dict[str, Any]:
        counts = self.counts
        return {} if counts is None else {"counts": counts.cpu(), "macs": self.macs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts, self.macs = state_dict.get("counts"), state_dict.get("macs", 0)

    def _write(self, trainer: Trainer, step: int) -> None:
        assert self.counts is not None
        counts = trainer.strategy.reduce(self.counts.clone(), reduce_op="sum").cpu()
        self.counts.zero_()
        self.macs += self.cost.of_counts(counts.sum(0))
        if not trainer.is_global_zero:
            return
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        if not self.path.exists():
            names = [f"expert_{i + 1}" for i in range(counts.shape[2])]
            writer.writerow(["step", "degradation", "block", *names])
        for label, of_label in zip(self.labels, counts.tolist(), strict=True):
            for block, row in enumerate(of_label, start=1):
                if any(row):
                    writer.writerow([step, label, block, *row])
        with open(self.path, "a", newline="") as file:
            file.write(lines.getvalue())
        if trainer.logger is not None:
            values = {"compute/forward_petamacs": self.macs / 1e15}
            for label, of in [*zip(self.labels, counts, strict=True), ("all", counts.sum(0))]:
                total = int(of.sum())
                for expert, number in enumerate(of.sum(0).tolist() if total else [], start=1):
                    values[f"experts/{label}/{expert}"] = number / total
            trainer.logger.log_metrics(values, step)

    def _drop_after(self, step: int) -> None:
        """Forget the lines of steps that a resumed run does again, and one that was cut short."""
        if not self.path.exists():
            return
        head, *lines = self.path.read_text().splitlines()
        kept = [
            line
            for line in lines
            if line.count(",") == head.count(",") and int(line.split(",")[0]) <= step
        ]
        if len(kept) < len(lines):
            with whole_file(self.path) as temporary:
                temporary.write_text("\n".join([head, *kept]) + "\n")


def read_usage(path: Path) -> dict[str, Tensor]:
    """Of each degradation in an ``experts.csv``: (steps, D, n) counts, the steps in order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is none.
    """
    with open(path, newline="") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        if head[:3] != ["step", "degradation", "block"]:
            raise ValueError(f"{path}: not an experts.csv of a training run")
        rows = [(int(step), label, int(block), [*map(int, n)]) for step, label, block, *n in reader]
    steps = sorted({row[0] for row in rows})
    blocks, experts = max(row[2] for row in rows), len(head) - 3
    found: dict[str, Tensor] = {}
    for step, label, block, numbers in rows:
        shape = (len(steps), blocks, experts)
        table = found.setdefault(label, torch.zeros(shape, dtype=torch.int64))
        table[steps.index(step), block - 1] = torch.tensor(numbers)
    return found
