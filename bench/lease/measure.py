"""How fast is it? Times are medians of CUDA events around single calls, on random data."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contenders import published_network
from moce_kernels.backends import VARIABLE
from moceir import MoCEIR, preset
from moceir.model.folded import folded
from moceir.training.loss import restoration_loss

Row = dict[str, Any]
Work = Callable[[], Any]


def seconds(work: Work, device: torch.device, most: float = 0.4) -> list[float]:
    """Of single calls, after three that warm up, for about so many seconds: 5 to 50 of them."""
    for _ in range(3 if device.type == "cuda" else 1):
        work()
    if device.type == "cpu":
        start = time.perf_counter()
        work()
        return [time.perf_counter() - start]
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    count = min(50, max(5, int(most / (time.perf_counter() - start))))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for before, after in events:
        before.record()
        work()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in events]


def timed(work: Work, device: torch.device, most: float = 0.4) -> Row:
    """The median and the range in milliseconds; or why there is none."""
    try:
        found = seconds(work, device, most)
    except (RuntimeError, torch.OutOfMemoryError) as problem:
        return {"problem": repr(problem)[:300]}
    return {
        "ms": 1e3 * statistics.median(found),
        "least": 1e3 * min(found),
        "greatest": 1e3 * max(found),
        "calls": len(found),
    }


def captured(work: Work) -> Work:
    """``work`` as one launch, after three calls on another stream as PyTorch asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        work()
    return graph.replay


def ceilings(device: torch.device) -> Iterator[Row]:
    """What the card reaches: a copy of 1 GB, products of 8192 x 8192 matrices."""
    bytes_, edge = (1 << 30, 8192) if device.type == "cuda" else (1 << 24, 512)
    a = torch.randn(bytes_ // 4, device=device)
    b = torch.empty_like(a)
    found = timed(lambda: b.copy_(a), device)
    yield {"ceiling": "copy", "TB/s": 2 * bytes_ / found["ms"] / 1e9, **found}
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "strict"),
        ("tf32", torch.float32, "tf32"),
        ("float32", torch.float32, "strict"),
    ):
        m, n = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
        with _precision(precision):
            found = timed(functools.partial(torch.mm, m, n), device)
        yield {"ceiling": name, "TFLOP/s": 2 * edge**3 / found["ms"] / 1e9, **found}


# --- the whole network ---------------------------------------------------------------------------


def _step_and_infer(
    who: str, name: str, published: str | None, batch: Tensor, dtype: torch.dtype, train: bool
) -> Work:
    """One inference, or forward, loss and backward, of this project's or the published network."""
    theirs = who.startswith("published")
    if theirs:
        assert published is not None
        model: Any = published_network(Path(published), name)
        for module in model.modules():
            if hasattr(module, "noise_std"):
                module.noise_std = module.noise_std if train else 0.0
                # Under CUDA's autocast its scatter_ gets two dtypes and fails: in float32, as ours.
                module.forward = _in_float32(module.forward, batch.device)
    else:
        torch.manual_seed(0)
        model = MoCEIR(preset(name))
    model = model.to(batch.device).train(train)
    if batch.device.type == "cuda" and not theirs and not train:
        model = folded(model, dtype)  # as Restorer does
    call = torch.compile(model) if "compile" in who else model
    cast = functools.partial(
        torch.autocast, batch.device.type, dtype, enabled=dtype != torch.float32
    )

    def infer() -> Tensor:
        with torch.inference_mode(), cast():
            return call(batch)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with cast():
            if theirs:
                restored, auxiliary = call(batch), model.total_loss
            else:
                restored, routing = call(batch, return_routing=True)
                auxiliary = routing.aux_loss
        restoration_loss(restored, batch.flip(-1), auxiliary).backward()

    return step if train else infer


def _in_float32(forward: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def call(*tensors: Tensor) -> Any:
        with torch.autocast(device.type, enabled=False):
            return forward(*(t.float() for t in tensors))

    return call


# Preset, batch, height, width, training.
TASKS = {
    "moce_ir_s 1280 x 720": ("moce_ir_s", 1, 720, 1280, False),
    "moce_ir_s step of 32 x 128 x 128": ("moce_ir_s", 32, 128, 128, True),
    "compact 1280 x 720": ("compact", 1, 720, 1280, False),
    "compact step of 32 x 64 x 64": ("compact", 32, 64, 64, True),
}


def _batch(task: str, device: torch.device) -> Tensor:
    _, batch, height, width, _ = TASKS[task]
    if device.type == "cpu":
        batch, height, width = 1, 32, 32
    torch.manual_seed(1)
    return torch.rand(batch, 3, height, width, device=device)


def _memory(device: torch.device, before: int) -> Row:
    if device.type == "cpu":
        return {}
    return {"MB": (torch.cuda.max_memory_allocated() - before) / 1e6}


@contextlib.contextmanager
def _precision(who: str) -> Iterator[None]:
    """How PyTorch computes products of float32: by its own defaults, which have TF32 for
    convolutions and not for matrix products, unless "strict" or "tf32" is asked for."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    if "strict" in who or "tf32" in who:
        matmul.fp32_precision = conv.fp32_precision = "tf32" if "tf32" in who else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def network(device: torch.device, tasks: str, who: str, published: str | None) -> Iterator[Row]:
    """``who``: "ours" or "published", alone or followed by ", strict" or ", tf32" (see
    ``_precision``) or, ours, by ", triton" (no CUDA C++), separated by ";"."""
    for task in tasks.split(";"):
        name, *_, train = TASKS[task]
        for one in who.split(";"):
            if one.startswith("published") and (published is None or name != "moce_ir_s"):
                continue
            for dtype in (torch.float32, torch.bfloat16):
                if ("strict" in one or "tf32" in one) and dtype != torch.float32:
                    continue
                os.environ[VARIABLE] = "triton" if "triton" in one else ""
                with _precision(one):
                    yield from _times(device, task, one, dtype, published, train)


def _times(
    device: torch.device,
    task: str,
    who: str,
    dtype: torch.dtype,
    published: str | None,
    train: bool,
) -> Iterator[Row]:
    row = {"task": task, "contender": who, "dtype": str(dtype)[6:]}
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
    try:
        batch = _batch(task, device)
        work = _step_and_infer(who, TASKS[task][0], published, batch, dtype, train)
        if cuda:
            work()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            before = 0
        found = timed(work, device, 0.6)
        yield {**row, "run": "eager", **found, **_memory(device, before)}
        if cuda and who.startswith("ours"):
            yield {**row, "run": "graph", **timed(captured(work), device, 0.6)}
    except Exception as problem:  # one contender's failure must not hide the others' numbers
        yield {**row, "run": "?", "problem": repr(problem)[:400]}


def compiled(device: torch.device, task: str, dtype: str, published: str) -> Iterator[Row]:
    """The published code under ``torch.compile``: how long that takes, and, when a line on standard
    input says that nothing else runs, one call after it."""
    torch._dynamo.config.recompile_limit = 256  # one frame for every width of a block
    torch._dynamo.config.accumulated_recompile_limit = 2048
    row = {"task": task, "contender": "published, compiled", "dtype": dtype}
    batch, train = _batch(task, device), TASKS[task][-1]
    work = _step_and_infer(
        "published, compiled", TASKS[task][0], published, batch, getattr(torch, dtype), train
    )
    start = time.perf_counter()
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    yield {**row, "run": "compile", "seconds": time.perf_counter() - start}
    sys.stdin.readline()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield {**row, "run": "eager", **timed(work, device, 0.6), **_memory(device, before)}


# --- kernels of one call -------------------------------------------------------------------------


def profile(device: torch.device, task: str, dtype: str, out: str) -> Iterator[Row]:
    """Every kernel of one call, in order, to ``out`` (JSON, gzipped), and the 40 names that take
    most of the time."""
    with _precision("ours"):
        train = TASKS[task][-1]
        batch = _batch(task, device)
        precision = getattr(torch, dtype)
        work = _step_and_infer("ours", TASKS[task][0], None, batch, precision, train)
        for _ in range(3):
            work()
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            torch.cuda.synchronize()
            activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as seen:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kernels = [
        {
            "name": e["name"],
            "us": e["dur"],
            **{
                k: e["args"].get(k)
                for k in ("grid", "block", "registers per thread", "shared memory")
            },
        }
        for e in sorted((e for e in events if e.get("dur")), key=lambda e: e["ts"])
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    with gzip.open(out, "wt") as file:
        json.dump(kernels, file)
    totals: dict[str, list[float]] = {}
    for k in kernels:
        count_and_sum = totals.setdefault(k["name"][:80], [0, 0.0])
        count_and_sum[0] += 1
        count_and_sum[1] += k["us"]
    row = {"task": task, "dtype": dtype}
    whole = math.fsum(k["us"] for k in kernels)
    yield {**row, "kernels": len(kernels), "ms": whole / 1e3}
    for name, (count, total) in sorted(totals.items(), key=lambda t: -t[1][1])[:40]:
        yield {**row, "kernel": name, "launches": int(count), "ms": total / 1e3}
