"""A training run from its configuration to its weights."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from moceir.errors import ConfigError, short
from moceir.inference.memory import find_device
from moceir.model import MoCEIR, load_model, save_weights
from moceir.training.config import TrainingConfig
from moceir.training.data import RestorationData
from moceir.training.loop import Checkpoint, Training
from moceir.training.module import RestorationModule
from moceir.training.options import parse
from moceir.training.record import Before, before, changes, write_record
from moceir.training.step import CudaGraphs, TrainingStep
from moceir.weights.state import load_state


def train(
    config: TrainingConfig,
    keep: Callable[[Checkpoint], None] | None = None,
    keep_minutes: float = 2,
) -> Path:
    """Run, or go on with, a training run; returns the file of its weights.

    The run folder holds ``last.ckpt``, ``config.yaml``, ``versions.json`` (what ran each part of
    the run, and which values changed there), ``experts.csv`` (how often each expert was taken, by
    degradation and block), TensorBoard's curves and sample pictures in ``curves/``, and at the end
    ``model.safetensors``: the averaged weights. A run that ``max_minutes`` ends returns its last
    checkpoint instead.

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
    # Where there is a GPU each process makes its context on its own, and none on the first here.
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        find_device("cuda")  # raises with the reason
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if processes > 1 else "auto",
    )
    why_no_graph = config.why_no_graph(fabric.device.type)
    last = config.run / "last.ckpt"
    continued = before(last, config) if last.exists() else None
    ended = continued is not None and continued.step >= config.steps
    if not ended and os.environ.get("LOCAL_RANK", "0") == "0":  # one process of each machine
        data.check()
    fabric.launch()
    device = fabric.device
    torch.manual_seed(config.seed)
    module = _module(config, data, start=continued is None).to(device)
    if fabric.is_global_zero:
        if continued is None:
            changed = {}
        else:
            changed = changes(continued.values, config)
            _say_how_it_goes_on(continued, config, changed)
        if not ended:
            about = {
                "cuda_graph": why_no_graph is None,
                "parameters": sum(p.numel() for p in module.model.parameters()),
                "pictures": data.pictures,
            }
            step = continued.step if continued else 0
            write_record(config, device, about, step, changed)
        how = "each step as one CUDA graph"
        if why_no_graph is not None:
            how = f"without a CUDA graph: {why_no_graph}"
        _say(f"training on {device}, {how}")
    network = None
    if processes > 1:
        ids = [device.index] if device.type == "cuda" else None
        network = DistributedDataParallel(module.model, device_ids=ids, broadcast_buffers=False)
    graphs = CudaGraphs(device) if why_no_graph is None else None
    training = Training(
        fabric, module, TrainingStep(module, graphs, network), data, keep, keep_minutes
    )
    if continued is not None:
        training.load()
    if not training.fit():
        return last
    weights = config.run / "model.safetensors"
    if fabric.is_global_zero:
        save_weights(training.step.average, weights)
    return weights


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _say_how_it_goes_on(
    continued: Before, config: TrainingConfig, changed: dict[str, tuple[object, object]]
) -> None:
    done = f"the run in {config.run} has done {continued.step} steps"
    if continued.step >= config.steps:
        _say(f"{done} of {config.steps}: nothing to train; raise --steps or --epochs to continue")
        return
    if changed:
        shown = (f"{name} {short(old)} -> {short(new)}" for name, (old, new) in changed.items())
        record = config.run / "versions.json"
        _say(f"{done} and continues with other settings: {', '.join(shown)}; recorded in {record}")
    if config.weights is not None and config.weights != continued.values.get("weights"):
        _say(
            f"{done} and continues from its checkpoint, not from the weights {config.weights}: to "
            "start from these, choose another --run"
        )


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
        load_state(module.model, _grown(load_model(config.weights), module.model.state_dict()))
    return module


def _grown(start: MoCEIR, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ``start``, and those of what it lacks and its larger successor has.

    With zeros ``expert_path`` adds nothing; but the experts, which make the query, are modulated
    more strongly. Further refinement blocks are the last one with outputs of zero, so that they
    change nothing at first.
    """
    state = start.state_dict()
    last = f"refinement.{start.config.num_refinement_blocks - 1}."
    for name in own.keys() - state.keys():
        part, _, rest = name.partition(".")
        like = last + rest.partition(".")[2]
        if ".expert_path." in name:
            state[name] = torch.zeros_like(own[name])
        elif part == "refinement" and like in state:
            output = ".project_out." in name
            state[name] = torch.zeros_like(own[name]) if output else state[like]
    return state


def main(arguments: Sequence[str]) -> Path:
    """``moceir train``.

    Raises:
        ConfigError: an unknown name or a value out of range.
        MoceirError: as ``train``.
    """
    return train(parse(arguments))
