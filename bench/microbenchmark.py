"""What the microbenchmarks of all operators share: the contenders, and one measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels.backends import BACKENDS, why_not

DIRECTIONS = ("forward", "forward_backward")
# Each with the reason where it cannot run; "compiled" is torch.compile of the reference.
CONTENDERS = (*BACKENDS, "compiled")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def activation(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    t = torch.randn(shape, device=device, dtype=dtype)
    return t.contiguous(memory_format=torch.channels_last)


def measure(
    benchmark: Any,
    operator: str,
    contender: str,
    direction: str,
    size: str,
    leaves: list[Tensor],
    call: Callable[..., Tensor],
    bytes_moved: float,
    flops: float,
    quick: bool,
) -> None:
    """Time ``call(backend, *leaves)``, or it and its gradients.

    ``bytes_moved`` and ``flops`` are what the operator cannot do without (see the heads of the
    kernels): each input read and each output written once.
    """
    device, dtype = leaves[0].device, leaves[0].dtype
    if contender == "published":
        function = functools.partial(call, contender)
    elif contender in BACKENDS:
        reason = why_not(contender, operator, device, dtype)
        if reason:
            pytest.skip(f"{contender}: {reason}")
        function = functools.partial(call, contender)
    else:
        function = functools.partial(torch.compile(call, dynamic=False), "reference")
    # On a GPU several calls are made for each look at the clock, which waits for the last.
    calls = 1 if device.type == "cpu" or quick else 20

    if direction == "forward":

        def once() -> None:
            with torch.no_grad():
                function(*leaves)
    else:
        for leaf in leaves:
            leaf.requires_grad_(leaf.is_floating_point())
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        grad = torch.randn_like(function(*leaves))

        def once() -> None:
            torch.autograd.grad(function(*leaves), trained, grad)

    def run() -> None:
        for _ in range(calls):
            once()
        synchronize(device)

    benchmark.group = f"{operator} {size} {str(dtype)[6:]} {direction}"
    benchmark.extra_info.update(
        operator=operator,
        contender=contender,
        direction=direction,
        size=size,
        dtype=str(dtype)[6:],
        calls=calls,
        bytes=bytes_moved,
        flops=flops,
    )
    run()
    if quick:
        benchmark.pedantic(run, rounds=2)
    else:
        benchmark(run)
