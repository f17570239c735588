"""A training run from its configuration to its weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from moce_kernels.backends import choose
from moceir import __version__
from moceir.data.patches import MixturePatches
from moceir.errors import CheckpointError, ConfigError
from moceir.files import whole_file
from moceir.training.checkpoint import WholeCheckpointIO
from moceir.training.config import TrainingConfig, plain
from moceir.training.data import RestorationData
from moceir.training.module import RestorationModule
from moceir.training.usage import ExpertUsage
from moceir.weights.files import save_weights
from moceir.weights.load import load_model
from moceir.weights.state import load_state


class _Progress(TQDMProgressBar):
    """Counts towards the last step: the stream of patches has no end of its own."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        # A resumed run starts in the middle of its only epoch.
        bar.total, bar.initial = self.trainer.max_steps, self.trainer.global_step
        return bar

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class _Checkpoint(Callback):
    """Writes ``last.ckpt`` every n steps, after the last, and when the time is over."""

    def __init__(self, folder: Path, every: int, minutes: float | None) -> None:
        self.folder, self.every = folder, every
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self.saved:  # a pass that ends no step
            return
        over = self.end is not None and time.monotonic() > self.end
        if self.end is not None:  # one clock for all processes
            over = trainer.strategy.broadcast(over)
        if over or step % self.every == 0 or step == trainer.max_steps:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.saved = step
        if over:
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, RestorationModule)
        checkpoint["training_config"] = plain(pl_module.config)


def train(config: TrainingConfig) -> Path:
    """Run, or go on with, a training run; returns the file of its weights.

    The run folder holds ``last.ckpt``, ``config.yaml``, ``versions.json`` (what ran each part of
    the run), ``experts.csv`` (how often each expert was taken, by degradation and block),
    TensorBoard's curves and sample pictures in ``curves/``, and at the end ``model.safetensors``:
    the averaged weights. A run that ``max_minutes`` ends returns its last checkpoint instead.

    Raises:
        PictureError: no training pictures, or one that cannot be read.
        CheckpointError: a checkpoint that cannot be written, read, or continued by this
            configuration.
        WeightsError: weights to start from that are not there or are of another network, or those
            of a teacher that are not there.
        NonFiniteLoss: the loss or a gradient is not finite; the last checkpoint stays.
    """
    data = RestorationData(config)
    mixture = data.patches if isinstance(data.patches, MixturePatches) else None
    if config.epochs is not None:
        assert mixture is not None  # the configuration has checked it
        batches = len(mixture) // config.data.batch_size
        if batches == 0:
            raise ConfigError(
                f"an epoch has {len(mixture)} patches, less than data.batch_size "
                f"{config.data.batch_size}: repeat the sets more often or lower it"
            )
        config = dataclasses.replace(config, steps=config.epochs * batches)
    last = config.run / "last.ckpt"
    if last.exists():
        _check_continues(last, config)
    else:
        _write_configuration(config)

    seed_everything(config.seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    by_label = config.distill.teachers
    teachers = {weights: load_model(weights) for weights in set(by_label.values())}
    module = RestorationModule(
        config,
        mixture.sources if mixture else (),
        {label: teachers[weights] for label, weights in by_label.items()},
    )
    if config.weights is not None and not last.exists():
        load_state(module.model, load_model(config.weights).state_dict())
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        accumulate_grad_batches=config.accumulate,
        precision=config.precision,  # type: ignore[arg-type]
        max_steps=config.steps,
        max_epochs=-1,
        logger=TensorBoardLogger(config.run, name="", version="curves"),
        callbacks=[
            # Before the checkpoint: what it averages over a step belongs to that step's file.
            EMAWeightAveraging(decay=config.optimizer.ema_decay),
            ExpertUsage(config),
            _Checkpoint(config.run, config.checkpoint_every, config.max_minutes),
            _Progress(),
        ],
        plugins=[WholeCheckpointIO()],
        enable_checkpointing=False,
        enable_model_summary=False,
        val_check_interval=config.validate_every if data.validation else None,
        check_val_every_n_epoch=None if data.validation else 1,
        limit_val_batches=None if data.validation else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every,
    )
    _write_versions(config, module)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    if trainer.global_step < config.steps:
        return last
    weights = config.run / "model.safetensors"
    if not trainer.is_global_zero:
        return weights
    averaged = WholeCheckpointIO().load_checkpoint(last)["state_dict"]
    load_state(module, averaged)
    save_weights(module.model, weights)
    return weights


@rank_zero_only
def _write_configuration(config: TrainingConfig) -> None:
    config.run.mkdir(parents=True, exist_ok=True)
    with whole_file(config.run / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(plain(config), sort_keys=False))


@rank_zero_only
def _write_versions(config: TrainingConfig, module: RestorationModule) -> None:
    """Add what is about to run to ``versions.json``."""
    path = config.run / "versions.json"
    parts = json.loads(path.read_text()) if path.exists() else []
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    dtype = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32
    part = {
        "moceir": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name()
        if gpu
        else f"cpu, {torch.get_num_threads()} threads",
        "processes": config.devices * config.nodes,
        "backend": choose("grouped_experts", None, device, dtype),
        "parameters": sum(p.numel() for p in module.model.parameters()),
    }
    if not parts or parts[-1] != part:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps([*parts, part], indent=1))


def _check_continues(last: Path, config: TrainingConfig) -> None:
    """A checkpoint continues a run of the same network."""
    saved = WholeCheckpointIO().load_checkpoint(last).get("training_config", {})
    network = TrainingConfig(preset=saved.get("preset", ""), model=saved.get("model", {})).network()
    if network != config.network():
        raise CheckpointError(
            f"{last} is of another network; choose another run folder, or give the network of "
            f"{last.parent / 'config.yaml'}"
        )


def parse(arguments: Sequence[str]) -> TrainingConfig:
    """A YAML file, any value of which the command line overrides.

    Raises:
        ConfigError: an unknown name or a value out of range.
    """
    parser = ArgumentParser(
        prog="moceir train", description="Train a network.", exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the values below")
    parser.add_class_arguments(TrainingConfig, as_group=False)
    try:
        options = parser.parse_args(list(arguments))
        options.pop("config", None)
        return TrainingConfig(**parser.instantiate(options).as_dict())
    except (ArgumentError, ValueError) as error:
        raise ConfigError(str(error)) from error


def main(arguments: Sequence[str]) -> Path:
    """``moceir train``.

    Raises:
        ConfigError: an unknown name or a value out of range.
        MoceirError: as ``train``.
    """
    return train(parse(arguments))
