"""What the network costs a GPU, without one: a change that makes it dearer fails here."""

from __future__ import annotations

import functools
import importlib.util
import math
import multiprocessing
import os
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gpu_model import estimate, library
from bench.gpu_model.launch import Launch
from bench.gpu_model.trace import trace
from moce_kernels import depthwise_conv, gated_depthwise_conv, pointwise_conv
from moce_kernels.ops import _library, grouped_depthwise_conv, grouped_window_conv  # noqa: F401
from moceir import preset
from moceir.training.precompile import network_work

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@functools.cache
def launches(train: bool, library: bool) -> list[Launch]:
    """Of the compact network in bf16, on pictures that are not square."""
    shape = (4, 3, 64, 96) if train else (1, 3, 64, 96)
    return trace(network_work(preset("compact"), shape, torch.bfloat16, train), library=library)


def total(work: list[Launch]) -> tuple[Counter[str], float]:
    """Launches by kind; bytes."""
    return Counter(one.kind for one in work), sum(map(estimate.moved, work))


@pytest.mark.parametrize("library", [False, True], ids=["triton", "library"])
@pytest.mark.parametrize("train", [False, True], ids=["inference", "step"])
def test_channels_last_from_end_to_end(train: bool, library: bool) -> None:
    """No kernel is given NCHW memory, forward or backward, but the picture and its loss. What is
    square is no activation: a kernel's taps, the matrices of the attention."""
    wrong = [
        (launch.name, array.name, array.shape, array.strides)
        for launch in launches(train, library)
        for array in launch.arrays
        if array.contiguous_activation and array.shape[1] != 3
        if array.shape[2] != array.shape[3]
    ]
    assert not wrong


# Triton's launches, PyTorch's, and MB, at most; 3 to 15 launches and 4 % of the bytes of a step are
# those of expert_path.
CEILINGS = {
    (False, False): (136, 47, 51.5),
    (False, True): (66, 47, 31.2),
    (True, False): (628, 387, 990.0),
    (True, True): (411, 366, 824.0),
}


@pytest.mark.parametrize(("train", "library"), CEILINGS)
def test_launches_and_bytes(train: bool, library: bool) -> None:
    kinds, moved = total(launches(train, library))
    triton, aten, megabytes = CEILINGS[train, library]
    assert kinds["triton"] <= triton
    assert kinds["aten"] <= aten
    assert moved / 1e6 <= megabytes


def channels_last(channels: int) -> Tensor:
    x = torch.empty(2, channels, 64, 96, dtype=torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)


def main_kernels() -> None:
    pointwise_conv(channels_last(64), torch.empty(170, 64), norm=(torch.empty(64),) * 2)
    depthwise_conv(channels_last(64), torch.empty(64, 1, 3, 3))
    gated_depthwise_conv(channels_last(128), torch.empty(128, 1, 3, 3))
    ops = _library.kernels("triton")
    ops.depthwise_conv_backward_weight(channels_last(64), channels_last(64), 3)
    temperature = torch.empty(2)
    ops.channel_attention(
        channels_last(192), None, temperature, torch.empty(64, 64), None, channels_last(64)
    )


# Instructions of all threads for each element of the activations named, at most.
INSTRUCTIONS = {
    "_pointwise_conv": ("out", 14.6),
    "_depthwise_conv": ("out", 42.0),
    "_gated_depthwise_conv": ("out", 108.0),
    "_depthwise_conv_backward_weight": ("x", 62.0),
    "_gram": ("q", 43.0),
}


@functools.cache
def compiled() -> dict[str, tuple[Launch, estimate.Estimate]]:
    """The first launch of each kernel."""
    first = {launch.name: launch for launch in reversed(trace(main_kernels, compiled=True))}
    return {n: (first[n], estimate.estimate(first[n], estimate.GPU())) for n in INSTRUCTIONS}


@pytest.mark.parametrize("kernel", INSTRUCTIONS)
def test_instructions_for_each_result(kernel: str) -> None:
    launch, found = compiled()[kernel]
    assert found.instructions is not None
    name, most = INSTRUCTIONS[kernel]
    results = math.prod(next(a.shape for a in launch.arrays if a.name == name))
    assert found.instructions / results <= most


# The objects of setup.py that the kernels below are in: some 20 s on two cores, or nothing where
# csrc/cuda has not changed since the last time.
OBJECTS = (
    "depthwise_conv",
    "depthwise_conv_kernel_bfloat16",
    "fused_feedforward",
    "fused_feedforward_kernel_bfloat16",
    "fused_feedforward_kernel_float",
    "fused_projection_kernel_bfloat16",
    "fused_projection_kernel_float",
    "gated_depthwise_conv",
    "gated_depthwise_conv_kernel_bfloat16",
    "grouped_depthwise_conv",
    "grouped_depthwise_conv_kernel_bfloat16",
    "grouped_window_conv",
    "grouped_window_conv_kernel_bfloat16",
    "sum_rows",
)

# Instructions of all threads for each element of the operator's first tensor, at most. Experts have
# equal shares of the slots, and 30 of its 64 channels on average.
CUDA_INSTRUCTIONS = {
    "forward_kernel<3, 4, 2>": 20.6,
    "forward_kernel<7, 8, 1>": 68.0,
    "backward_weight_kernel<3, 2>": 24.0,
    "backward_weight_kernel<7, 1>": 79.0,
    "grouped_forward_kernel<3, 4, 2>": 22.9 * 30 / 64,
    "grouped_forward_kernel<7, 8, 1>": 70.1 * 30 / 64,
    "grouped_backward_weight_kernel<3, 2>": 31.3 * 30 / 64,
    "grouped_backward_weight_kernel<7, 1>": 84.0 * 30 / 64,
    "gated_kernel<4, 2, false>": 26.7,
    "gated_kernel<4, 2, true>": 71.0,
    "feedforward_kernel<BFloat16, 4, 1>": 137.5,
    "projection_kernel<BFloat16, 4, 1>": 82.0,
    "attention_kernel<BFloat16, 4>": 101.0,
    "feedforward_kernel<BFloat16, 8, 1>": 197.0,
    "attention_kernel<BFloat16, 8>": 139.0,
    "feedforward_kernel<float, 4, 3>": 335.2,
    "projection_kernel<float, 4, 3>": 152.0,
    "grouped_convolve_kernel": 26.0,
    "grouped_correlate_kernel": 44.0,
}


# Bytes that a kernel stores for each of those elements: that many results there are.
STORED = {
    "forward_kernel<3, 4, 2>": 2.0,
    "forward_kernel<7, 8, 1>": 2.0,
    "grouped_forward_kernel<3, 4, 2>": 2.0 * 30 / 64,
    "grouped_forward_kernel<7, 8, 1>": 2.0 * 30 / 64,
    "gated_kernel<4, 2, false>": 1.0,
    "gated_kernel<4, 2, true>": 4.0,
    "feedforward_kernel<BFloat16, 4, 1>": 2.0,
    "projection_kernel<BFloat16, 4, 1>": 6.0,
    # v, and sums of 33 blocks an image.
    "attention_kernel<BFloat16, 4>": 2.0 + 4 * 33 * 34 / (240 * 192),
    "feedforward_kernel<float, 4, 3>": 4.0,
    "projection_kernel<float, 4, 3>": 12.0,
    "grouped_convolve_kernel": 4 * (8 + 16 + 32 + 64) / 64 / 4,
}


def stored_bytes(launch: Launch) -> float:
    kernel = launch.kernel
    assert kernel
    visits = estimate.average_visits(launch, kernel)
    sizes = {"128": 16, "64": 8, "U16": 2}
    of_a_thread = sum(
        count * next((sizes[part] for part in one.modifiers if part in sizes), 4)
        for one, count in zip(kernel.code.instructions, visits, strict=True)
        if one.name == "STG"
    )
    return of_a_thread * kernel.threads * math.prod(launch.grid)


def cuda_kernels() -> dict[str, tuple[int, float, float]]:
    """Bytes that each kernel spills, and for each element its instructions and the bytes that it
    stores. For a process of its own, whose operators for CUDA launch nothing from then on."""
    kernels = library.Library(library.build(OBJECTS))
    x, wide = (
        torch.empty(
            *(8, channels, 256, 192), dtype=torch.bfloat16, memory_format=torch.channels_last
        )
        for channels in (64, 128)
    )
    slot = x[:1]  # of which each expert is looked at in turn
    mixed = torch.empty_like(slot, dtype=torch.float32)
    order, offsets = (torch.empty(n, dtype=torch.int64) for n in (1, 5))
    plan = order, offsets, [8, 16, 32, 64], [4, 8, 16, 32]
    weights = (
        torch.empty(s) for s in ((256, 64), (256,), (256, 1, 3, 3), (256,), (64, 128), (64,))
    )
    tiled = x[:, :, :240]  # whole tiles
    feedforward = (tiled, *weights, True, 1e-5, False)
    projection = (tiled, *(torch.empty(s) for s in ((192, 64), (192,), (192, 1, 3, 3))), None)
    projection = (*projection, True, 1e-5, False)
    wider = [torch.empty(s) for s in ((512, 128), (512,), (512, 1, 3, 3), (512,), (128, 256))]
    wider_qkv = [torch.empty(s) for s in ((384, 128), (384,), (384, 1, 3, 3))]
    ops = torch.ops.moce_kernels
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.gated_depthwise_conv, (wide, torch.empty(128, 1, 3, 3), None)),
        (ops.gated_depthwise_conv_backward, (x, wide, torch.empty(128, 1, 3, 3), None)),
        (ops.fused_feedforward, feedforward),
        (ops.fused_projection, projection),
        (ops.fused_feedforward, (tiled.float(), *feedforward[1:])),
        (ops.fused_projection, (tiled.float(), *projection[1:])),
        (ops.fused_attention_sums, (*projection[:-3], 2, 33, True, 1e-5)),
        (ops.fused_feedforward, (wide, *wider, None, True, 1e-5, False)),
        (ops.fused_attention_sums, (wide, *wider_qkv, None, 4, 33, True, 1e-5)),
        (ops.grouped_window_conv, (slot, slot, *plan)),
        (ops.grouped_window_conv_backward, (mixed, slot, slot, *plan, slot, slot)),
    ]
    index, ranks = torch.empty(8, 1, dtype=torch.int64), plan[2]
    for taps in (3, 7):
        weight = torch.empty(sum(ranks), taps, taps)
        calls += [
            (ops.grouped_depthwise_conv, (x, weight, None, index, ranks, 1, False, x)),
            (
                ops.grouped_depthwise_conv_backward_weight,
                (x, x, index.flatten(), offsets, ranks, 1, taps),
            ),
        ]
        calls.append((ops.depthwise_conv, (x, torch.empty(64, 1, taps, taps), None, False)))
        calls.append((ops.depthwise_conv_backward_weight, (x, x, taps)))
    found = {}
    for operator, arguments in calls:
        for launch in kernels.launches((operator.default, arguments, {})):
            one = estimate.estimate(launch, estimate.GPU())
            assert one.instructions is not None, launch.name
            found[launch.name] = (
                one.spilled,
                one.instructions / arguments[0].numel(),
                stored_bytes(launch) / arguments[0].numel(),
            )
    return found


@pytest.fixture(scope="module")
def cuda() -> dict[str, tuple[int, float, float]]:
    if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
        pytest.skip("there is no nvcc to compile the CUDA C++ kernels with")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(cuda_kernels).result()


@pytest.mark.parametrize("kernel", CUDA_INSTRUCTIONS)
def test_instructions_of_cuda_kernels(
    kernel: str, cuda: dict[str, tuple[int, float, float]]
) -> None:
    spilled, instructions, _ = cuda[kernel]
    assert spilled == 0
    assert instructions <= CUDA_INSTRUCTIONS[kernel]


@pytest.mark.parametrize("kernel", STORED)
def test_every_result_is_stored_once(
    kernel: str, cuda: dict[str, tuple[int, float, float]]
) -> None:
    """So the model counts right: how often loops run, blocks without work, threads beyond edges."""
    assert cuda[kernel][2] == pytest.approx(STORED[kernel], rel=0.01)
