"""Compile what the Triton kernels launch for a GPU that need not be there.

``python tests/ops/compile_triton.py 90`` compiles every kernel in each way that it can be launched,
and ``... 90 all`` also what the networks launch. It prints Triton's version, then one JSON object
for each kernel: the operator or network, the kernel, and its use of registers, stack and memory as
cuobjdump has it.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import triton.backends.nvidia
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from moce_kernels import triton_kernels
from moce_kernels.absent_gpu import Launch, Target, absent_gpu
from moce_kernels.ops._inputs import new_like
from moceir.config import PRESETS
from moceir.training.precompile import network_work
from tests.ops.spec import (
    DTYPES,
    Sample,
    attention_sample,
    channel_sample,
    depthwise_sample,
    experts_sample,
    feedforward_sample,
    gated_sample,
    plan_sample,
    pointwise_sample,
    projected_sample,
    transposed_sample,
    window_sample,
)

CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"


def usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = (
        word.split(":") for line in text.splitlines() if "REG:" in line for word in line.split()
    )
    return {name: int(value) for name, value in words if name in ("REG", "STACK", "LOCAL")}


def samples() -> Iterator[tuple[str, Sample]]:
    """One of each way to be launched; shapes of whole vectors, as in the network."""
    yield "routing_plan", plan_sample(32, 4, 1)
    for kernel in (3, 7):
        yield "depthwise_conv", depthwise_sample((1, 48, 32, 32), "channels_last", kernel)
    yield "gated_depthwise_conv", gated_sample((1, 96, 32, 32), "channels_last")
    for channels, outer in ((48, 254), (384, 2042)):  # all channels in one program; too many
        shape = (1, channels, 32, 32)
        yield "pointwise_conv", pointwise_sample(shape, "channels_last", outer, "norm", "bias")
    yield "pointwise_conv", pointwise_sample((1, 128, 32, 32), "channels_last", 24, "norm")
    yield "pointwise_conv", pointwise_sample((1, 85, 32, 32), "channels_last", 32, "residual")
    yield "pointwise_conv", pointwise_sample((1, 64, 32, 32), "contiguous", 170, "norm")
    shape = (1, 96, 32, 32)
    yield "channel_attention", channel_sample(shape, "channels_last", 2, 96, "residual")
    yield "channel_attention", channel_sample(shape, "channels_last", 3, 85, "cross", "bias")
    yield "channel_attention", channel_sample((1, 384, 32, 32), "contiguous", 1, 384)
    # What follows launches kernels of the operators above.
    shape = (1, 32, 32, 32)
    yield "gated_feedforward", feedforward_sample(shape, "channels_last", 64, "norm", "bias")
    yield "projected_depthwise_conv", projected_sample(shape, "channels_last", 64, 7)
    yield "transposed_attention", transposed_sample(shape, "channels_last", 1, 32, 32, "residual")
    yield "fft_attention", attention_sample((1, 48, 32, 32), "channels_last", 8)
    yield "fft_attention", attention_sample((1, 16, 32, 32), "channels_last", 8)
    yield "window_fft_conv", window_sample((1, 48, 32, 32), "channels_last", 32)
    ranks, windows = (8, 16, 32, 64), (4, 8, 16, 32)
    layer = experts_sample((2, 64, 32, 32), "channels_last", ranks, windows, [[0], [3]])
    yield "grouped_experts", layer


def smallest() -> Iterator[tuple[str, Sample]]:
    """Sizes of 1, which Triton turns into constants: code that takes them for tensors fails."""
    yield "routing_plan", plan_sample(1, 1, 1)
    yield "depthwise_conv", depthwise_sample((1, 1, 1, 1), "contiguous", 3)
    yield "gated_depthwise_conv", gated_sample((1, 2, 1, 1), "contiguous")
    yield "pointwise_conv", pointwise_sample((1, 1, 1, 1), "contiguous", 1, "norm", "residual")
    yield "channel_attention", channel_sample((1, 1, 1, 1), "contiguous", 1, 1, "bias")
    yield "fft_attention", attention_sample((1, 1, 1, 1), "contiguous", 4)
    yield "window_fft_conv", window_sample((1, 1, 1, 1), "contiguous", 4)
    yield "grouped_experts", experts_sample((1, 1, 1, 1), "contiguous", (1,), (4,), [[0]])


def gradient_arguments(operator: str, raw: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the backward implementation takes where the forward one took ``raw``; the output's
    gradient need only have its shape and layout."""
    first = raw[0]
    if operator == "depthwise_conv":
        return first, first, raw[1].shape[-1]
    if operator == "gated_depthwise_conv":
        return (new_like(first, first.shape[1] // 2), *raw)
    if operator == "pointwise_conv":
        x, weight, _, _, norm, eps = raw
        return new_like(x, weight.shape[0]), x, weight, norm, eps, True, True
    if operator == "channel_attention":
        query, key_value, temperature, weight, _, _ = raw
        heads, (outer, channels) = temperature.shape[0], weight.shape
        gram = weight.new_empty((query.shape[0], heads, channels // heads, channels // heads))
        squares = weight.new_empty((query.shape[0], 2, channels))
        grad = new_like(query, outer)
        return grad, query, key_value, gram, squares, temperature, weight
    return first, *raw


def implementations(operator: str) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    module = importlib.import_module(f"moce_kernels.triton_kernels.{operator}")
    return module.forward, getattr(module, "backward", None)


def run_samples(every_dtype: bool, launches_of: Callable[[str], None]) -> None:
    """In float32 and bfloat16 or float16 by turns, or in every dtype."""
    for number, (operator, sample) in enumerate(samples()):
        launches_of(operator)
        dtypes = DTYPES if every_dtype else (DTYPES[0], DTYPES[1 + number % 2])
        for dtype in dtypes if operator != "routing_plan" else DTYPES[:1]:
            run_sample(operator, sample, dtype)
    for operator, sample in smallest():
        launches_of(operator)
        run_sample(operator, sample, torch.float32)


def run_sample(operator: str, sample: Sample, dtype: torch.dtype) -> None:
    forward, backward = implementations(operator)
    raw = sample.raw(**sample.cast(dtype))
    forward(*raw)
    if backward is not None:
        backward(*gradient_arguments(operator, raw))


def run_networks(capability: int, launch: Launch, launches_of: Callable[[str], None]) -> None:
    """Each preset trained on patches in both precisions that training has, and in float16 restoring
    a picture of a width that few powers of two divide."""
    patches, ragged = (2, 3, 128, 128), (1, 3, 128, 72)
    for name, config in PRESETS.items():
        launches_of(name)
        for shape, dtype, train in (
            (patches, torch.float32, True),
            (patches, torch.bfloat16, True),
            (ragged, torch.float16, False),
        ):
            work = network_work(config, shape, dtype, train)
            with absent_gpu(capability, launch, library=False):
                work()


def main(capability: int, everything: bool) -> None:
    torch.manual_seed(0)
    print(triton.__version__)
    driver.set_active(Target(capability))
    triton_kernels.load()
    run, seen, launches_of = JITFunction.run, set(), ""

    def compile_only(kernel: JITFunction, grid: Any, args: Any, kwargs: Any) -> None:
        compiled = run(kernel, *args, grid=grid, warmup=True, **kwargs)
        if compiled.hash not in seen:
            seen.add(compiled.hash)
            found = {"operator": launches_of, "kernel": kernel.__name__}
            print(json.dumps({**found, **usage(compiled.asm["cubin"])}), flush=True)

    def now(name: str) -> None:
        nonlocal launches_of
        launches_of = name

    JITFunction.run = lambda self, *args, grid, warmup, **kwargs: compile_only(
        self, grid, args, kwargs
    )
    run_samples(everything, now)
    if everything:
        run_networks(capability, compile_only, now)


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv[2:])
