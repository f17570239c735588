"""Is it right? Each check yields rows for lease.jsonl; a row with ``"ok": False`` is a failure."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from moce_kernels import backends, info
from moceir import MoCEIR, MoCEIRConfig, Restorer, preset
from moceir.evaluation.check import TOGETHER, check_kernels
from moceir.evaluation.metrics import psnr
from moceir.evaluation.rows import parse_row
from moceir.inference.graphs import Replayed
from moceir.model.folded import Folded
from moceir.model.routing import routers
from moceir.pictures.pixels import to_tensor
from moceir.training.loss import restoration_loss
from tests.ops.samples import SPECS
from tests.ops.spec import OpSpec, Sample
from tests.ops.test_all_ops import error, run

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]
SMALL = MoCEIRConfig(dim=16, num_blocks=(1, 1, 1, 1), num_dec_blocks=(1, 1, 1))
# The bundled network has expert_path, the paper's has not.
NETWORKS, SIZE = ("moce_ir_s", "compact"), (75, 101)
PHOTO = (160, 192)


def versions(device: torch.device) -> Iterator[Row]:
    def output_of(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip()

    import triton

    yield {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "capability": torch.cuda.get_device_capability() if device.type == "cuda" else None,
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "compute-sanitizer": bool(shutil.which("compute-sanitizer")),
        "info": info.report(),
    }


# --- operators -----------------------------------------------------------------------------------


def operators(
    device: torch.device, backend: str, dtype: str, part: str, some: str | None
) -> Iterator[Row]:
    """Every sample of the tests' table, or of ``some`` operators in it, against float64: the errors
    of values and gradients may be twice plain PyTorch's in the same precision on the same device.
    Outputs are NaN before a kernel writes them. Nothing is skipped: an operator that cannot run is
    a failure."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # plain PyTorch's, which sets what is allowed
    one, of = map(int, part.split("/"))
    for spec in SPECS:
        if backend not in spec.kernels or (some is not None and spec.name not in some.split(",")):
            continue
        for i, sample in enumerate(spec.samples()):
            if i % of == one:
                yield from _operator(spec, sample, backend, getattr(torch, dtype), device)


def _operator(
    spec: OpSpec, wide: Any, backend: str, dtype: torch.dtype, device: torch.device
) -> Iterator[Row]:
    row = {"operator": spec.name, "backend": backend, "dtype": str(dtype)[6:], "sample": wide.name}
    try:
        sample = wide.rounded(dtype)
        exact = run(sample, "reference", torch.float64)
        plain = run(sample, "reference", dtype, device)
        ours = run(sample, backend, dtype, device)
        worst: Row = {"share": -1.0}
        for name, value in exact.items():
            allowed = 2 * error(plain[name], value) + spec.floor[dtype]
            found = error(ours[name], value)
            share = found / allowed if found == found else float("inf")
            if share > worst["share"]:
                worst = {"share": share, "tensor": name, "error": found, "allowed": allowed}
        if worst["share"] > 1:
            worst["redrawn"] = _redrawn(wide, worst["tensor"], backend, dtype, device)
        yield {**row, **worst, "ok": worst["share"] <= 1}
    except Exception as problem:
        traceback.print_exc()
        if "CUDA error" in str(problem) or "illegal" in str(problem):
            yield {**row, "ok": False, "problem": repr(problem)[:400]}
            raise  # nothing that follows in this process would mean anything
        yield {**row, "ok": False, "problem": repr(problem)[:400]}


def _redrawn(
    wide: Sample, tensor: str, backend: str, dtype: torch.dtype, device: torch.device
) -> Row:
    """What a sample that failed does with its values in sixteen other orders. The rounding errors
    of few numbers are small by chance now and then, plain PyTorch's too: the root mean squares of
    both over all orders tell whether ours are larger as a rule."""
    errors = []
    for seed in range(2, 18):
        sample = wide.shuffled(seed).rounded(dtype)
        exact = run(sample, "reference", torch.float64, seed=seed)[tensor]
        plain = run(sample, "reference", dtype, device, seed)[tensor]
        ours = run(sample, backend, dtype, device, seed)[tensor]
        errors.append((error(ours, exact), error(plain, exact)))
    squares = torch.tensor(errors, dtype=torch.float64).square().mean(0).sqrt()
    return {"ours": squares[0].item(), "plain": squares[1].item(), "orders": len(errors)}


def smallest(device: torch.device, backend: str) -> Iterator[Row]:
    """The smallest samples, forward and backward: for compute-sanitizer, which reads along."""
    for spec in SPECS:
        if backends.why_not(backend, spec.name, device) is None:
            for sample in spec.tiny():
                run(sample, backend, torch.float32, device)
            yield {"sanitized": spec.name, "backend": backend}


# --- the network ---------------------------------------------------------------------------------


def network(device: torch.device, dtype: str) -> Iterator[Row]:
    """Whole networks and their gradients, at a ragged size, against their reference in float64."""
    configs, size = {name: preset(name) for name in NETWORKS}, SIZE
    if device.type == "cpu":
        configs, size = {"small": SMALL.replace(dim=8)}, (13, 18)
    for name, config in configs.items():
        (found,) = check_kernels(device, [dtype], [TOGETHER], [config], size)
        yield {"network": name, "size": size, **found._asdict(), "ok": found.right}


def compiled(device: torch.device) -> Iterator[Row]:
    """A training step under torch.compile, whose code relies on what the operators say of their
    results: the same loss and gradients."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # TF32 differs from one algorithm to another
    model, batch = _small(device).train(), _images(device, 0)
    for router in routers(model):
        router.noise = "never"

    def step(call: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        model.zero_grad(set_to_none=True)
        restored, routing = call(batch, return_routing=True)
        loss = restoration_loss(restored, batch.flip(-1), routing.aux_loss)
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.detach(), torch.cat(gradients)

    backend = "inductor" if device.type == "cuda" else "aot_eager"
    eager, ours = step(model), step(torch.compile(model, backend=backend))
    worst = max(error(a, b.double().cpu()) for a, b in zip(ours, eager, strict=True))
    yield {"check": "compiled training step", "error": worst, "ok": worst < 1e-4}


def _small(device: torch.device) -> MoCEIR:
    torch.manual_seed(0)
    return MoCEIR(SMALL).to(device).eval()


def _images(device: torch.device, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 128, 128, generator=generator).to(device)


def synchronisation(device: torch.device) -> Iterator[Row]:
    """A forward pass, and a training step, in which the host never waits for the device."""
    model, batch = _small(device), _images(device, 0)

    def infer() -> None:
        with torch.inference_mode():
            model(batch)

    def step() -> None:
        restored, routing = model(batch, return_routing=True)
        restoration_loss(restored, batch.flip(-1), routing.aux_loss).backward()

    for what, work in (("forward pass", infer), ("training step", step)):
        model.train(work is step)
        work()  # libraries are loaded and kernels compiled
        problem = None
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                work()
            except RuntimeError as refused:
                problem = f"{refused} at {traceback.extract_tb(sys.exc_info()[2])[-1]}"
            finally:
                torch.cuda.set_sync_debug_mode("default")
        yield {"without_waiting": what, "ok": problem is None, "problem": problem}


def graph(device: torch.device) -> Iterator[Row]:
    """The forward pass replayed from a CUDA graph, as Restorer does it: equal to the eager pass,
    also after the weights have changed."""
    model = _small(device)
    ready = Folded(model, torch.float32)

    def forward(batch: Tensor) -> tuple[Tensor]:
        return (ready.network(batch),)

    with torch.inference_mode():
        if device.type == "cpu":
            forward(_images(device, 0))
            yield {"graph": "there are no CUDA graphs here; a forward pass ran", "ok": True}
            return
        replayed = Replayed(forward)
        replayed(_images(device, 0))  # as it is
        for seed in range(1, 4):  # the first is captured
            batch = _images(device, seed)
            (ours,), (eager,) = replayed(batch), forward(batch)
            difference = float((ours - eager).abs().max())
            yield {"graph": f"images {seed}", "difference": difference, "ok": difference == 0}
        for p in model.parameters():
            p.mul_(1.1)
        moved = ready.refresh()
        batch = _images(device, 4)
        # Not beside the network itself: PyTorch's convolutions are in TF32, of other weights.
        (ours,), now = replayed(batch), Folded(model, torch.float32).network(batch)
        difference = float((ours - now).abs().max())
        ok = not moved and difference == 0
        yield {"graph": "after a change of the weights", "difference": difference, "ok": ok}
        yield {"graph": "captured", "ok": replayed.release()}


# --- what uses the network ------------------------------------------------------------------------


def specialists(device: torch.device) -> Iterator[Row]:
    """A photo restored by the specialists: as on a CPU, from CUDA graphs as without them, and in
    the precision that ``auto`` takes nearly as in float32."""
    with Image.open(ROOT / "samples/clean/canyon-wren.png") as picture:
        clean = to_tensor(picture.crop((0, 0, *PHOTO[::-1])))
    there, here = Restorer(device="cpu"), Restorer(device=device)
    auto = Restorer(device=device, precision="auto")
    kinds = ("noise:sigma=25", "rain", "haze:view=0", "low_light", "noise,jpeg:quality=30")
    for number, kind in enumerate(kinds if device.type == "cuda" else kinds[:1]):
        image = parse_row(kind).degrade(clean, number).mul(255).round().div(255)[None]
        expected, *ours, lower = (r(image)[0] for r in (there, here, here, here, auto))
        near, nearly = psnr(ours[0], expected), psnr(lower, expected)
        same = all(torch.equal(each, ours[0]) for each in ours)
        yield {
            "check": f"specialists, {kind}",
            "gain": psnr(expected, clean) - psnr(image[0], clean),
            "psnr_to_cpu": near,
            "psnr_of_auto": nearly,
            "graphs_equal": same,
            "ok": same and near > 50 and nearly > 35,
        }


class _Outcomes:
    """Of the tests that pytest runs, as a plugin."""

    def __init__(self) -> None:
        self.passed = self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        self.skipped += report.skipped


def tests(device: torch.device, files: str) -> Iterator[Row]:
    """Tests of what the operators' table does not reach by itself, of which most have to run. In
    this process, so that compute-sanitizer can read along."""
    outcomes = _Outcomes()
    # Without the options of pyproject.toml: one is of a package that these tests do not need.
    words = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    code = pytest.main([*words, *files.split(",")], plugins=[outcomes])
    yield {
        "check": files,
        "passed": outcomes.passed,
        "skipped": outcomes.skipped,
        "ok": code == 0 and outcomes.passed > outcomes.skipped,
    }
