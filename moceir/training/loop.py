"""The loop of a training run: steps, curves, validation, checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed
from torch.utils.tensorboard import SummaryWriter

from moceir.data import synthesis
from moceir.data.light import of_bytes
from moceir.data.patches import Read, joined, split, to_device
from moceir.errors import NonFiniteLoss
from moceir.files import naming
from moceir.machine import kept_memory
from moceir.training.checkpoint import load_checkpoint, save_checkpoint
from moceir.training.config import plain
from moceir.training.data import RestorationData
from moceir.training.module import RestorationModule, psnr
from moceir.training.optimizer import learning_rate
from moceir.training.step import Inputs, TrainingStep
from moceir.training.usage import ExpertUsage

Checkpoint = dict[str, Any]


class Training:
    """A run from the step it stands at to its last.

    The host reads values from the device every ``log_every`` steps, for a checkpoint and for a
    validation, and does not wait for it in between.

    Args:
        fabric: launched.
        step: what trains ``module``.
        data: of the same configuration.
        keep: also called with a checkpoint, about every ``keep_minutes`` and at the end.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: RestorationModule,
        step: TrainingStep,
        data: RestorationData,
        keep: Callable[[Checkpoint], None] | None = None,
        keep_minutes: float = 2,
    ) -> None:
        self.fabric, self.module, self.step, self.data = fabric, module, step, data
        self.config = module.config
        self.keep, self.keep_minutes = keep, keep_minutes
        self.done = 0
        """Steps that are behind it."""
        self.last = self.config.run / "last.ckpt"
        self.usage = ExpertUsage(self.config, module.labels)

    def load(self) -> None:
        """Go on at ``last.ckpt``.

        Raises:
            CheckpointError: it cannot be read, or does not fit.
        """
        checkpoint = load_checkpoint(self.last)
        self.step.load_state_dict(checkpoint)
        self.done = checkpoint["global_step"]
        self.usage.load_state_dict(checkpoint.get("usage", {}), self.step.counts, self.done)
        if not self.fabric.is_global_zero:  # the first process has the counts of all
            self.step.counts.zero_()

    def fit(self) -> bool:
        """Train; whether the last step was reached, and not the end of ``max_minutes``.

        Raises:
            NonFiniteLoss: a loss or a gradient is not finite; the last checkpoint stays.
            CheckpointError: a checkpoint cannot be written; the one before stays.
            OSError: curves or counts cannot be written.
            PictureError: a picture that cannot be used.
        """
        config = self.config
        if self.done >= config.steps:
            return True
        if self.done == 0 and self.fabric.is_global_zero:
            self.usage.forget()  # an attempt that ended before its first checkpoint
        now = time.monotonic()
        self._end = None if config.max_minutes is None else now + 60 * config.max_minutes
        self._keep_next = now + 60 * self.keep_minutes
        self._bar = _Bar(config.steps, self.done, self.fabric.is_global_zero)
        folder = config.run / "curves" if self.fabric.is_global_zero else None
        passes = self.passes()
        with _writer(folder) as self.curves, self._bar, kept_memory():
            while self.done < config.steps:
                parts = [next(passes) for _ in range(config.accumulate)]
                self.step(self.done, parts)
                self.done += 1
                if self._after(parts[0]):
                    break
        return self.done == config.steps

    def passes(self) -> Iterator[Inputs]:
        """The inputs of one pass after another, without end."""
        together, accumulate = self.data.together, self.config.accumulate
        # The same batches together as if the run had never stopped: how a library rounds may depend
        # on the size of a batch.
        start = self.done - self.done % max(1, together // accumulate)
        batches = self.data.batches(start, self.fabric.global_rank)
        done = (self.done - start) * accumulate
        while True:
            inputs = self.inputs([next(batches) for _ in range(together)])
            yield from inputs[done:]
            done = 0

    def inputs(self, reads: Sequence[Read]) -> list[Inputs]:
        """Batches on the device, degraded together."""
        device, found = self.step.device, []
        with torch.no_grad():
            patches = self.data.source.batch(joined(reads), device)
            for clean, degraded, labels in split(patches, len(reads)):
                with self.step.autocast():
                    taught = self.module.targets(clean, degraded, labels) or (None, None)
                numbers = to_device(torch.tensor(labels), device)
                found.append(Inputs(degraded, clean, numbers, *taught))
        return found

    def _after(self, inputs: Inputs) -> bool:
        """What follows a step; whether the time is over."""
        config, done = self.config, self.done
        last = done == config.steps
        over = self._over()
        if last or done % config.log_every == 0:
            self._log()
        if done % config.validate_every == 0:
            self._check()
            if not self.data.validation:
                self._show("training", inputs.degraded[:4], inputs.clean[:4])
            elif self.fabric.is_global_zero:
                self._validate()
        if last or over or done % config.checkpoint_every == 0:
            checkpoint = self._checkpoint()
            if self.fabric.is_global_zero:
                save_checkpoint(checkpoint, self.last)
            self.fabric.barrier()
            self._bar.say(f"step {done} of {config.steps}: {self.last} written")
        if self.keep is not None and (last or over or time.monotonic() > self._keep_next):
            self.keep(self._checkpoint())
            self._keep_next = time.monotonic() + 60 * self.keep_minutes
        return over

    def _over(self) -> bool:
        if self._end is None:
            return False
        over = time.monotonic() > self._end
        if self.fabric.world_size == 1:
            return over
        # One clock for all processes, which is asked where they wait for each other anyway.
        return self.done % self.config.log_every == 0 and self.fabric.broadcast(over)

    def _check(self) -> None:
        """Stop at what is not finite."""
        first = self.step.broken.clone()
        if self.fabric.world_size > 1:
            distributed.all_reduce(first[:1], op=distributed.ReduceOp.MIN)
        step, loss, norm = first.tolist()
        if step != float("inf"):
            raise NonFiniteLoss(
                f"at step {step:.0f} the loss is {loss:g} and the gradient's norm {norm:g}: lower "
                "optimizer.lr or use precision 32-true; the last checkpoint is from before and can "
                "be resumed"
            )

    def _log(self) -> None:
        self._check()
        step = self.step
        values = self.fabric.all_reduce(step.values.clone(), reduce_op="mean")
        loss, auxiliary, quality, norm = values.tolist()  # type: ignore[union-attr]
        counts = self._counts()
        step.counts.zero_()
        if not self.fabric.is_global_zero:
            return
        points = {
            "train/loss": loss,
            "train/aux_loss": auxiliary,
            "train/psnr": quality,
            "train/gradient_norm": norm,
            "train/lr": learning_rate(self.config, self.done - 1),
            **self.usage.write(counts, self.done),
        }
        assert self.curves is not None
        for name, value in points.items():
            self.curves.add_scalar(name, value, self.done)
        self._bar.update(self.done, f"loss {loss:.4f}  {quality:.2f} dB")

    def _counts(self) -> Tensor:
        counts: Any = self.fabric.all_reduce(self.step.counts.clone(), reduce_op="sum")
        return counts.cpu()

    def _checkpoint(self) -> Checkpoint:
        self._check()
        return {
            "global_step": self.done,
            **self.step.state_dict(),
            "usage": self.usage.state_dict(self._counts()),
            "training_config": plain(self.config),
        }

    @torch.no_grad()
    def _validate(self) -> None:
        kinds = self.config.data.kinds
        gains: dict[str, list[float]] = {kind: [] for kind in kinds}
        for index, pixels in enumerate(self.data.val_dataloader()):
            clean = of_bytes(to_device(pixels, self.step.device))
            degraded_ways = []
            for kind in kinds:
                recipe = synthesis.at(kind, "medium", [index])
                degraded = synthesis.degrade(clean, recipe)
                gain = psnr(self._restore(degraded), clean) - psnr(degraded, clean)
                gains[kind].append(gain.item())
                degraded_ways.append(degraded)
            all_kinds = torch.cat(degraded_ways)
            self._show(str(index), all_kinds, clean.expand_as(all_kinds))
        assert self.curves is not None
        for kind, found in gains.items():
            self.curves.add_scalar(f"psnr_gain/{kind}", sum(found) / len(found), self.done)

    @torch.no_grad()
    def _restore(self, degraded: Tensor) -> Tensor:
        """By the averaged weights, one picture at a time."""
        with self.step.autocast():
            restored = [self.step.average(image[None]) for image in degraded]
        return torch.cat(restored).float().clamp(0, 1)

    def _show(self, name: str, degraded: Tensor, clean: Tensor) -> None:
        """A picture for the curves: each image in a row, degraded, restored and clean."""
        if self.curves is not None:
            rows = torch.cat([degraded, self._restore(degraded), clean], dim=3)
            picture = torch.cat([*rows], dim=1)
            self.curves.add_image(f"degraded, restored, clean/{name}", picture, self.done)


@contextmanager
def _writer(folder: Path | None) -> Iterator[SummaryWriter | None]:
    """Writes curves. On a full disk its thread dies with a trace; the next call here says why."""
    if folder is None:
        yield None
        return
    hook = threading.excepthook

    def quiet(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            hook(args)

    threading.excepthook = quiet
    try:
        with naming(folder), closing(SummaryWriter(str(folder))) as writer:
            yield writer
    finally:
        threading.excepthook = hook


class _Bar:
    """How far a run is: a bar on a terminal, else a line for each checkpoint."""

    def __init__(self, total: int, done: int, active: bool) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not active)
        columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self.progress = Progress(
            *columns,
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=total, completed=done)
        self.text = ""

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, text: str) -> None:
        self.text = text
        self.progress.update(self.task, completed=done, description=text)

    def say(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"{line}; {self.text}", markup=False)
