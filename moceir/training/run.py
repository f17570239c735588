"""A training run from its configuration to its weights."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
import torch
import yaml
from lightning.fabric import Fabric
from torch.nn.parallel import DistributedDataParallel

from moce_kernels.backends import choose
from moceir import __version__
from moceir.errors import CheckpointError, ConfigError
from moceir.files import whole_file
from moceir.model import load_model, save_weights
from moceir.training.checkpoint import load_checkpoint
from moceir.training.config import TrainingConfig, plain
from moceir.training.data import RestorationData
from moceir.training.loop import Checkpoint, Training
from moceir.training.module import RestorationModule
from moceir.training.options import parse
from moceir.training.step import CudaGraphs, TrainingStep
from moceir.weights.state import load_state


def train(
    config: TrainingConfig,
    keep: Callable[[Checkpoint], None] | None = None,
    keep_minutes: float = 2,
) -> Path:
    """Run, or go on with, a training run; returns the file of its weights.

    The run folder holds ``last.ckpt``, ``config.yaml``, ``versions.json`` (what ran each part of
    the run), ``experts.csv`` (how often each expert was taken, by degradation and block),
    TensorBoard's curves and sample pictures in ``curves/``, and at the end ``model.safetensors``:
    the averaged weights. A run that ``max_minutes`` ends returns its last checkpoint instead.

    Args:
        keep: also called with a checkpoint, about every ``keep_minutes`` and at the end.

    Raises:
        PictureError: no training pictures, or one that cannot be read.
        CheckpointError: a checkpoint that cannot be written, read, or continued by this
            configuration.
        WeightsError: weights to start from that are not there or are of another network, or those
            of a teacher that are not there.
        NonFiniteLoss: the loss or a gradient is not finite; the last checkpoint stays.
    """
    data = RestorationData(config)
    config = _with_steps(config, data)
    processes = config.devices * config.nodes
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if processes > 1 else "auto",
    )
    why_no_graph = config.why_no_graph(fabric.device.type)
    last = config.run / "last.ckpt"
    if last.exists():
        _check_continues(last, config)
    fabric.launch()
    device = fabric.device
    torch.manual_seed(config.seed)
    module = _module(config, data, start=not last.exists()).to(device)
    if fabric.is_global_zero:
        # A run that goes on from a packed state has a checkpoint and no configuration.
        if not last.exists() or not (config.run / "config.yaml").exists():
            _write_configuration(config)
        _write_versions(config, module, device, why_no_graph)
        how = "each step as one CUDA graph"
        if why_no_graph is not None:
            how = f"without a CUDA graph: {why_no_graph}"
        print(f"training on {device}, {how}", file=sys.stderr)
    network = None
    if processes > 1:
        ids = [device.index] if device.type == "cuda" else None
        network = DistributedDataParallel(module.model, device_ids=ids, broadcast_buffers=False)
    graphs = CudaGraphs(device) if why_no_graph is None else None
    training = Training(
        fabric, module, TrainingStep(module, graphs, network), data, keep, keep_minutes
    )
    if last.exists():
        training.load()
    if not training.fit():
        return last
    weights = config.run / "model.safetensors"
    if fabric.is_global_zero:
        save_weights(training.step.average, weights)
    return weights


def _with_steps(config: TrainingConfig, data: RestorationData) -> TrainingConfig:
    """With the steps of ``epochs``."""
    if config.epochs is None:
        return config
    patches = len(data.source.samples)
    batches = patches // config.data.batch_size
    if batches == 0:
        raise ConfigError(
            f"an epoch has {patches} patches, less than data.batch_size "
            f"{config.data.batch_size}: repeat the sets more often or lower it"
        )
    return dataclasses.replace(config, steps=config.epochs * batches)


def _module(config: TrainingConfig, data: RestorationData, start: bool) -> RestorationModule:
    by_label = config.distill.teachers
    teachers = {weights: load_model(weights) for weights in set(by_label.values())}
    module = RestorationModule(
        config,
        data.source.samples.labels,
        {label: teachers[weights] for label, weights in by_label.items()},
    )
    if config.weights is not None and start:
        state = load_model(config.weights).state_dict()
        # Weights without this path go on nearly as the network they are: with zeros it adds
        # nothing, but the experts, which make the query, are modulated more strongly.
        state |= {
            name: torch.zeros_like(tensor)
            for name, tensor in module.model.state_dict().items()
            if ".expert_path." in name and name not in state
        }
        load_state(module.model, state)
    return module


def _write_configuration(config: TrainingConfig) -> None:
    config.run.mkdir(parents=True, exist_ok=True)
    with whole_file(config.run / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(plain(config), sort_keys=False))


def _write_versions(
    config: TrainingConfig, module: RestorationModule, device: torch.device, no_graph: str | None
) -> None:
    """Add what is about to run to ``versions.json``."""
    path = config.run / "versions.json"
    parts = json.loads(path.read_text()) if path.exists() else []
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32
    part = {
        "moceir": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device)
        if gpu
        else f"cpu, {torch.get_num_threads()} threads",
        "processes": config.devices * config.nodes,
        "backend": choose("grouped_experts", None, device, dtype),
        "cuda_graph": no_graph is None,
        "parameters": sum(p.numel() for p in module.model.parameters()),
    }
    if not parts or parts[-1] != part:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps([*parts, part], indent=1))


def _check_continues(last: Path, config: TrainingConfig) -> None:
    """A checkpoint continues a run of the same network."""
    saved = load_checkpoint(last).get("training_config", {})
    network = TrainingConfig(preset=saved.get("preset", ""), model=saved.get("model", {})).network()
    if network != config.network():
        raise CheckpointError(
            f"{last} belongs to another network; choose another run folder, or the network in "
            f"{last.parent / 'config.yaml'}"
        )


def main(arguments: Sequence[str]) -> Path:
    """``moceir train``.

    Raises:
        ConfigError: an unknown name or a value out of range.
        MoceirError: as ``train``.
    """
    return train(parse(arguments))
