"""What ``bench/compare.py`` compares: the tasks, and each contender as a function of the images."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moceir import MoCEIR, preset
from moceir.model.load import to_published
from moceir.training.config import DataConfig, OptimizerConfig, TrainingConfig
from moceir.training.loss import restoration_loss
from moceir.training.module import RestorationModule
from moceir.training.step import Inputs, TrainingStep

NAMES = {
    "ours": "this project",
    "ours_bf16": "this project, bf16",
    "reference": "this project, reference backend",
    "reference_bf16": "this project, reference backend, bf16",
    "published": "published code, eager",
    "published_bf16": "published code, eager, bf16",
    "published_compiled": "published code, torch.compile",
    "onnxruntime": "ONNX Runtime, our export",
    "openvino": "OpenVINO, our export",
}
BF16 = "_bf16"
"""The end of a contender's name that runs under ``torch.autocast``; the others run in float32."""

KINDS = {
    "inference": "inference",
    "gradients": "forward, loss, backward",
    "step": "step of moceir train",
}


@dataclass(frozen=True)
class Task:
    """One measurement, on ``batch`` random images.

    ``kind`` is ``inference``; ``gradients``, which is forward, loss and backward; or ``step``, all
    that ``moceir train`` does with a batch: these, clipping, Muon, and averaging the weights.
    """

    preset: str
    batch: int
    height: int
    width: int
    kind: str = "inference"
    # Contenders that are worth their time and memory on it.
    contenders: tuple[str, ...] = tuple(who for who in NAMES if not who.endswith(BF16))
    # Calls of each contender, at most.
    rounds: int = 100

    @property
    def name(self) -> str:
        size = f"{self.batch} x {self.width} x {self.height}"
        return f"{self.preset}, {KINDS[self.kind]}, {size}"


def network(name: str) -> MoCEIR:
    """The weights of every contender: random, the same each time."""
    torch.manual_seed(0)
    return MoCEIR(preset(name))


@functools.cache
def published_module(folder: Path) -> Any:
    """The published network's module, from a clone of its repository."""
    if importlib.util.find_spec("fvcore") is None:
        stub: Any = types.ModuleType("fvcore.nn")
        stub.FlopCountAnalysis = stub.flop_count_table = None
        sys.modules["fvcore"] = types.ModuleType("fvcore")
        sys.modules["fvcore.nn"] = stub
    path = folder / "src" / "net" / "moce_ir.py"
    spec = importlib.util.spec_from_file_location("published_moce_ir", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path}: --published must name a clone of the published code")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published_network(folder: Path, name: str) -> torch.nn.Module:
    ours = network(name)
    config = ours.config
    module = published_module(folder)
    net = module.MoCEIR(
        dim=config.dim,
        num_blocks=list(config.num_blocks),
        num_dec_blocks=list(config.num_dec_blocks),
        levels=len(config.num_blocks),
        heads=list(config.heads),
        num_refinement_blocks=config.num_refinement_blocks,
        topk=config.top_k,
        num_experts=config.num_experts,
        rank=config.rank,
        with_complexity=True,
        depth_type="constant",
        stage_depth=[1] * len(config.num_dec_blocks),
        rank_type=config.rank_schedule,
        complexity_scale=config.complexity_scale,
    )
    net.load_state_dict(to_published(ours))
    return net


def contender(who: str, task: Task, published: Path | None) -> Callable[[Tensor], Tensor | None]:
    """A function of the images: the restored ones, or None in training."""
    if who in ("onnxruntime", "openvino"):
        return exported(who, task)
    bf16 = who.endswith(BF16)
    if task.kind == "step":
        return training_step(task, bf16)
    theirs = who.startswith("published")
    if theirs:
        if published is None:
            raise FileNotFoundError("--published was not given")
        model = published_network(published, task.preset)
    else:
        model = network(task.preset)
    model.train(task.kind == "gradients")
    if task.kind == "inference":
        for module in model.modules():
            if theirs and hasattr(module, "noise_std"):
                module.noise_std = 0.0
    call: Callable[..., Any] = torch.compile(model) if who.endswith("compiled") else model
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)

    def infer(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast():
            return call(images).float()

    def gradients(images: Tensor) -> None:
        model.zero_grad(set_to_none=True)
        with autocast():
            if theirs:
                restored, auxiliary = call(images), model.total_loss
            else:
                restored, routing = call(images, return_routing=True)
                auxiliary = routing.aux_loss
        restoration_loss(restored, images.flip(-1), auxiliary).backward()

    return infer if task.kind == "inference" else gradients


def training_step(task: Task, bf16: bool) -> Callable[[Tensor], None]:
    """Steps of a run from random weights. Degrading the patches is no part of them."""
    config = TrainingConfig(
        preset=task.preset,
        precision="bf16-mixed" if bf16 else "32-true",
        data=DataConfig(batch_size=task.batch),
        optimizer=OptimizerConfig(muon=True),
    )
    torch.manual_seed(0)
    step = TrainingStep(RestorationModule(config).train())
    numbers = itertools.count()

    def call(images: Tensor) -> None:
        labels = torch.zeros(len(images), dtype=torch.int64)
        step(next(numbers), [Inputs(images, images.flip(-1), labels)])

    return call


def exported(who: str, task: Task) -> Callable[[Tensor], Tensor]:
    from moceir.inference.export import export_onnx

    threads = torch.get_num_threads()
    sizes = {"batch": task.batch, "height": task.height, "width": task.width}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(network(task.preset).eval(), path)
        if who == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            for axis, size in sizes.items():
                options.add_free_dimension_override_by_name(axis, size)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            name = session.get_inputs()[0].name
            return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape([task.batch, 3, task.height, task.width])
        compiled = core.compile_model(
            model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        )
        return lambda images: torch.from_numpy(np.array(compiled(images.numpy())[0]))
