"""What the microbenchmarks of operators share: inputs, contenders, and one measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels import registry
from moce_kernels.backends import BACKENDS, why_not
from moce_kernels.registry import Cost
from tests.ops.spec import OpSpec, Sample

DIRECTIONS = ("forward", "forward_backward")
# Each with the reason where it cannot run; "compiled" is torch.compile of the reference.
CONTENDERS = (*BACKENDS, "compiled")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def images_and_side(device: torch.device, quick: bool = False) -> tuple[int, int]:
    """Of the inputs: on a GPU more than its cache holds."""
    if quick:
        return 1, 32
    return 16 if device.type == "cuda" else 1, 256


def timed_samples(spec: OpSpec, device: torch.device, images: int, side: int) -> Iterator[Sample]:
    """The operator's samples for benchmarks, made on the device one after the other."""
    samples = spec.timed(images, side)
    while True:
        with torch.device(device):
            sample = next(samples, None)
        if sample is None:
            return
        yield sample


def of_dtype(sample: Sample, dtype: torch.dtype) -> dict[str, Tensor]:
    """The sample's tensors with activations of this dtype and parameters of float32."""
    return {n: t if n in sample.master else t.to(dtype) for n, t in sample.tensors.items()}


def cost_of(operator: str, sample: Sample, tensors: dict[str, Tensor]) -> Cost:
    return registry.OPERATORS[operator].cost(*sample.raw(**tensors))


def directed(
    function: Callable[..., Tensor], direction: str, tensors: dict[str, Tensor]
) -> Callable[[], None]:
    """``function(**tensors)``, or it and all gradients, as a function of nothing."""
    if direction == "forward":

        def once() -> None:
            with torch.no_grad():
                function(**tensors)
    else:
        leaves = [t.requires_grad_() for t in tensors.values()]
        grad = torch.randn_like(function(**tensors))

        def once() -> None:
            torch.autograd.grad(function(**tensors), leaves, grad)

    return once


def measure(
    benchmark: Any,
    operator: str,
    contender: str,
    direction: str,
    sample: Sample,
    tensors: dict[str, Tensor],
    cost: Cost,
    quick: bool,
) -> None:
    """Time ``sample.call(contender, **tensors)``, or it and all gradients."""
    first = next(iter(tensors.values()))
    device, dtype = first.device, first.dtype
    reason = why_not(contender, operator, device, dtype) if contender in BACKENDS else None
    if reason:
        pytest.skip(f"{contender}: {reason}")
    if contender == "compiled":
        function = functools.partial(torch.compile(sample.call, dynamic=False), "reference")
    else:
        function = functools.partial(sample.call, contender)
    # On a GPU several calls are made for each look at the clock, which waits for the last.
    calls = 1 if device.type == "cpu" or quick else 20

    once = directed(function, direction, tensors)

    def run() -> None:
        for _ in range(calls):
            once()
        synchronize(device)

    both = cost.bytes, cost.operations
    bytes_moved, operations = both if direction == "forward" else cost.with_backward
    benchmark.group = f"{operator} {sample.name} {str(dtype)[6:]} {direction}"
    benchmark.extra_info.update(
        operator=operator,
        contender=contender,
        direction=direction,
        size=sample.name,
        dtype=str(dtype)[6:],
        calls=calls,
        bytes=bytes_moved,
        flops=operations,
    )
    run()
    if quick:
        benchmark.pedantic(run, rounds=2)
    else:
        benchmark(run)
