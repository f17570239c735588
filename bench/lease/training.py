"""Does a training step wait, is it the same as a CUDA graph, how long does it take, and a slice."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from bench.lease.checks import SMALL
from bench.lease.measure import Row, _memory, timed
from moce_kernels.registry import OPERATORS
from moceir.data.patches import Read
from moceir.errors import MoceirError
from moceir.training.config import DataConfig, OptimizerConfig, TrainingConfig
from moceir.training.data import RestorationData, clean_pictures
from moceir.training.loop import Training
from moceir.training.module import RestorationModule
from moceir.training.options import build, read_yaml
from moceir.training.packed import NAME
from moceir.training.slices import run_slice
from moceir.training.step import WARM_UP, CudaGraphs, Inputs, TrainingStep

ROOT = Path(__file__).parents[2]
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def _config(device: torch.device, folder: Path, dtype: str, **values: Any) -> TrainingConfig:
    return TrainingConfig(
        run=folder / "run",
        precision=PRECISIONS[dtype],
        accelerator=device.type,
        **values,
    )


def _small(
    device: torch.device, folder: Path, dtype: str, muon: bool = False, graph: bool | None = None
) -> TrainingConfig:
    crop = 128 if device.type == "cuda" else 16
    return _config(
        device,
        folder,
        dtype,
        preset="compact",
        model=SMALL.to_dict(),
        data=DataConfig(train=folder / "pictures", crop=crop, batch_size=8),
        optimizer=OptimizerConfig(muon=muon, warmup_steps=4),
        steps=30 if device.type == "cuda" else 6,
        log_every=20 if device.type == "cuda" else 4,
        cuda_graph=graph,
    )


def _pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for i in range(4):
        coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((192, 192), Image.Resampling.BICUBIC)
        picture.save(folder / "pictures" / f"{i}.png")


def _step(config: TrainingConfig, device: torch.device, graph: bool) -> TrainingStep:
    torch.manual_seed(config.seed)
    module = RestorationModule(config).to(device)
    return TrainingStep(module, CudaGraphs(device) if graph else None)


def _inputs(config: TrainingConfig, device: torch.device, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    size = (config.data.batch_size, 3, config.data.crop, config.data.crop)
    degraded, clean = (torch.rand(size, generator=generator).to(device) for _ in range(2))
    labels = torch.randint(len(config.data.kinds), size[:1], generator=generator)
    return Inputs(degraded, clean, labels.to(device))


# --- checks --------------------------------------------------------------------------------------


class _Refusing(Training):
    """The loop of a run, in which the host may wait for the device where it says that it does."""

    def inputs(self, reads: Sequence[Read]) -> list[Inputs]:
        _refuse(False)  # degradations have a row of their own
        found = super().inputs(reads)
        # Kernels are loaded, and a graph is captured, in the first steps.
        _refuse(self.done > WARM_UP)
        return found

    def _after(self, inputs: Inputs) -> bool:
        every, done = self.config.log_every, self.done
        _refuse(WARM_UP < done < self.config.steps and done % every != 0)
        return super()._after(inputs)


def _refuse(refuse: bool) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error" if refuse else "default")


def waiting(device: torch.device) -> Iterator[Row]:
    """The loop of ``moceir train``, in which the host waits every twentieth step alone; and the
    degradations, during which it never does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _pictures(folder)
        for graph in (False, True) if device.type == "cuda" else (False,):
            config = _small(device, folder / f"graph {graph}", "bfloat16", graph=graph)
            config.data.train = folder / "pictures"
            data = RestorationData(config)
            fabric = Fabric(accelerator=config.accelerator, devices=1)
            fabric.launch()
            step = _step(config, fabric.device, graph)
            training = _Refusing(fabric, step.module, step, data)
            what = f"training loop, {'a CUDA graph' if graph else 'eager'}"
            yield _whether_refused(what, training.fit)
        batches = data.batches()
        plain = Training(fabric, step.module, step, data)
        plain.inputs([next(batches)])

        def degrade() -> None:
            batch = next(batches)
            _refuse(True)
            plain.inputs([batch])

        yield _whether_refused("degradations", degrade)


def _whether_refused(what: str, work: Any) -> Row:
    problem = None
    try:
        work()
    except (RuntimeError, MoceirError) as refused:
        place = refused.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        problem = f"{refused} at {where}"[:400]
    finally:
        _refuse(False)
    return {"without_waiting": what, "ok": problem is None, "problem": problem}


def graph(device: torch.device, dtype: str) -> Iterator[Row]:
    """Steps replayed from a CUDA graph, beside eager ones: the same, or as near as two eager runs
    are to each other. On a CPU two eager runs."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    steps = WARM_UP + 8
    with tempfile.TemporaryDirectory() as folder:
        for muon in (False, True):
            config = _small(device, Path(folder), dtype, muon)
            found = [
                _trained(config, device, steps, captured)
                for captured in (False, False, device.type == "cuda")
            ]
            (eager, losses), (again, _), (replayed, others) = found
            noise, difference = _distance(again, eager), _distance(replayed, eager)
            yield {
                "graph": f"{steps} training steps, {'Muon' if muon else 'AdamW'}, {dtype}",
                "difference": difference,
                "of_two_eager_runs": noise,
                "losses": [losses, others],
                "ok": difference <= 2 * noise,
            }


def _trained(
    config: TrainingConfig, device: torch.device, steps: int, captured: bool
) -> tuple[list[Tensor], list[float]]:
    """The trained and the averaged weights, and the losses."""
    step = _step(config, device, captured)
    losses = []
    for number in range(steps):
        step(number, [_inputs(config, device, number)])
        losses.append(step.values[0].item())
    return [*step.model.parameters(), *step.average.parameters()], losses


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, relative to the largest value of the tensor."""
    pairs = zip(some, others, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


# --- time ----------------------------------------------------------------------------------------


def speed(device: torch.device, dtype: str) -> Iterator[Row]:
    """A whole step of MoCE-IR-S: network, loss, gradients, clipping, AdamW, averages; with data at
    hand, and making the data (degradations) alone."""
    cuda = device.type == "cuda"
    size, crop = (32, 128) if cuda else (2, 16)
    data = DataConfig(crop=crop, batch_size=size)
    preset = "moce_ir_s" if cuda else "compact"
    config = _config(device, Path("unused"), dtype, preset=preset, data=data)
    task = "moceir train, a step of 32 x 128 x 128"
    for captured in (False, True) if cuda else (False,):
        row = {"task": task, "contender": "ours", "dtype": dtype}
        row["run"] = "graph" if captured else "eager"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step, inputs = _step(config, device, captured), [_inputs(config, device, 0)]
        for number in range(WARM_UP + 1 if cuda else 1):
            step(number, inputs)
        work = functools.partial(step, WARM_UP + 1, inputs)
        found = timed(work, device, 2.0)
        yield {**row, **found, "host_ms": _host(work, device), **_memory(device, 0)}
        del step, work
    samples = clean_pictures(data, [Path("none")])
    taken = np.zeros(size, dtype=np.int64)
    pixels = torch.randint(256, (size, 3, crop, crop), dtype=torch.uint8).to(device)

    def degrade() -> None:
        with torch.no_grad():
            samples.degrade(pixels, None, range(size), taken, seed=1)

    row = {"task": "moceir train, degradations of 32 x 128 x 128", "contender": "ours"}
    yield {**row, "dtype": "float32", "run": "eager", **timed(degrade, device, 1.0)}


def _host(work: Any, device: torch.device) -> float:
    """Milliseconds that the host takes for a step, not counting what the device does after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        work()
    took = (time.perf_counter() - start) / 3
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * took


# --- a slice -------------------------------------------------------------------------------------


def train(
    device: torch.device, minutes: str, pictures: str, given: str | None, out: str, file: str | None
) -> Iterator[Row]:
    """A slice of a run: from the state in ``given``, if there is one, to that in ``out``."""
    state = Path(out)
    state.mkdir(parents=True, exist_ok=True)
    for path in Path(given).iterdir() if given and Path(given).is_dir() else ():
        if NAME.fullmatch(path.name):
            shutil.copy(path, state)
    values = read_yaml(Path(file) if file else ROOT / "configs" / "moce_ir_s.yaml")
    values.setdefault("data", {})["train"] = pictures
    with tempfile.TemporaryDirectory() as run:
        values |= {"run": run, "max_minutes": float(minutes), "accelerator": device.type}
        if device.type == "cpu":
            values |= {"preset": "compact", "precision": "32-true", "steps": 3}
            values["data"] |= {"crop": 16, "batch_size": 2}
        start = time.perf_counter()
        result = run_slice(state, build(values))
        took = time.perf_counter() - start
        curves = {name: _curve(Path(run), name) for name in ("train/loss", "train/psnr")}
    files = {path.name: path.stat().st_size for path in sorted(state.iterdir())}
    step = max(int(NAME.fullmatch(name)[1]) for name in files)  # type: ignore[index]
    yield {"trained": step, "seconds": took, "files": files, "result": Path(result).name, **curves}


def _curve(run: Path, name: str) -> list[tuple[int, float]]:
    """Up to 100 of a curve's points: step and value; none where a run had no step left to do."""
    folder = run / "curves"
    events = EventAccumulator(str(folder))
    if folder.exists():
        events.Reload()
    if name not in events.Tags()["scalars"]:
        return []
    points = [(point.step, round(point.value, 5)) for point in events.Scalars(name)]
    return points[:: len(points) // 100 + 1]


def failed_operators(rows: list[Row]) -> str:
    """MOCE_KERNELS_BACKEND with which no operator trains on kernels that were found wrong."""
    names = {
        r["operator"]
        for r in rows
        if r.get("ok") is False and r.get("operator") in OPERATORS and r.get("dtype") != "float16"
    }
    return ",".join(f"{name}=reference" for name in sorted(names))
