"""What the network costs a GPU, without one: a change that makes it dearer fails here."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from bench.gpu_model import estimate, machine_code, trips
from bench.gpu_model.trace import Launch, trace
from moce_kernels import depthwise_conv, gated_depthwise_conv, pointwise_conv
from moce_kernels.ops import _library
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


# Triton's launches, PyTorch's, and MB, at most.
CEILINGS = {
    (False, False): (176, 171, 62.2),
    (False, True): (142, 171, 62.2),
    (True, False): (670, 1034, 1003.4),
    (True, True): (541, 950, 918.8),
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
    name, most = INSTRUCTIONS[kernel]
    results = math.prod(next(a.shape for a in launch.arrays if a.name == name))
    assert found.instructions / results <= most


PTX = """
.visible .entry _kernel(
	.param .u64 .ptr .global .align 1 _kernel_param_0,
	.param .u32 _kernel_param_1
)
{
	ld.param.b32 	%r1, [_kernel_param_1];
	ld.param.b64 	%rd1, [_kernel_param_0];
	mov.u32 	%r2, %ctaid.x;
	mul.wide.s32 	%rd2, %r2, 8;
	add.s64 	%rd3, %rd1, %rd2;
	mov.u64 	%rd4, 0x0;
	ld.global.b64 { %rd4 }, [ %rd3 + 8 ];
	setp.eq.b64 	%p1, %rd4, 7;
	@%p1 bra 	$L__BB0_2;
$L__BB0_1:
	add.f32 	%f1, %f1, %f2;
	add.s32 	%r2, %r2, 3;
	setp.lt.s32 	%p2, %r2, %r1;
	@%p2 bra 	$L__BB0_1;
$L__BB0_2:
	ret;
}
"""


def test_how_often_a_loop_runs() -> None:
    """From block to 20 in steps of 3; block 5 finds a 7 in memory and leaves."""
    program = trips.parse(PTX)
    assert program.loops == (machine_code.Loop(9, 12),)

    def visits(block: int) -> list[int]:
        memory = {(0, 8 * (block + 1)): 7 if block == 5 else 0}
        return program.visits(
            [1 << trips.POINTER, 20], (block, 0, 0), (8, 1, 1), 32, lambda p, at: memory[p, at]
        )

    assert trips.runs(program, visits(2), 1) == [1, 6]
    assert trips.runs(program, visits(5), 1) == [1, 0]
    with pytest.raises(trips.NotUnderstood, match="1 loops became 2"):
        trips.runs(program, visits(2), 2)


def test_what_is_in_machine_code() -> None:
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/                   EXIT ;
.L_x_2:
        /*0050*/                   BRA `(.L_x_2);
"""
    opcodes, loops = machine_code.parse(listing)
    assert opcodes[1] == "LDG.E.128" and len(opcodes) == 6
    assert loops == (machine_code.Loop(1, 3),)  # a branch to itself fills the end
    assert machine_code.operations(opcodes[2]) == 2 * 16 * 8 * 16
