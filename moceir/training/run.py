"""A training run from its configuration to its weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from moceir.errors import CheckpointError, ConfigError
from moceir.files import whole_file
from moceir.training.checkpoint import WholeCheckpointIO
from moceir.training.config import TrainingConfig, plain
from moceir.training.data import RestorationData
from moceir.training.module import RestorationModule
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
    """Writes ``last.ckpt`` every n steps and after the last."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, RestorationModule)
        checkpoint["training_config"] = plain(pl_module.config)


def train(config: TrainingConfig) -> Path:
    """Run, or go on with, a training run; returns the file of its weights.

    The run folder holds ``last.ckpt``, ``config.yaml``, TensorBoard's curves and sample pictures
    in ``curves/``, and at the end ``model.safetensors``: the averaged weights.

    Raises:
        PictureError: no training pictures, or one that cannot be read.
        CheckpointError: a checkpoint that cannot be written, read, or continued by this
            configuration.
        WeightsError: weights to start from that are not there or are of another network.
        NonFiniteLoss: the loss or a gradient is not finite; the last checkpoint stays.
    """
    data = RestorationData(config)
    config.run.mkdir(parents=True, exist_ok=True)
    last = config.run / "last.ckpt"
    if last.exists():
        _check_continues(last, config)
    else:
        with whole_file(config.run / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(plain(config), sort_keys=False))

    seed_everything(config.seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module = RestorationModule(config)
    if config.weights is not None and not last.exists():
        load_state(module.model, load_model(config.weights).state_dict())
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,  # type: ignore[arg-type]
        max_steps=config.steps,
        max_epochs=-1,
        logger=TensorBoardLogger(config.run, name="", version="curves"),
        callbacks=[
            # Before the checkpoint: what it averages over a step belongs to that step's file.
            EMAWeightAveraging(decay=config.optimizer.ema_decay),
            _Checkpoint(config.run, config.checkpoint_every),
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    weights = config.run / "model.safetensors"
    averaged = WholeCheckpointIO().load_checkpoint(last)["state_dict"]
    load_state(module, averaged)
    save_weights(module.model, weights)
    return weights


def _check_continues(last: Path, config: TrainingConfig) -> None:
    """A checkpoint continues a run of the same network."""
    saved = WholeCheckpointIO().load_checkpoint(last).get("training_config", {})
    network = TrainingConfig(preset=saved.get("preset", ""), model=saved.get("model", {})).network()
    if network != config.network():
        raise CheckpointError(
            f"{last} is of another network; choose another run folder, or give the network of "
            f"{last.parent / 'config.yaml'}"
        )


def main(arguments: Sequence[str]) -> Path:
    """``moceir train``: a YAML file, any value of which the command line overrides.

    Raises:
        ConfigError: an unknown name or a value out of range.
        MoceirError: as ``train``.
    """
    parser = ArgumentParser(
        prog="moceir train", description="Train a network.", exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the values below")
    parser.add_class_arguments(TrainingConfig, as_group=False)
    try:
        options = parser.parse_args(list(arguments))
        options.pop("config", None)
        config = TrainingConfig(**parser.instantiate(options).as_dict())
    except (ArgumentError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return train(config)
