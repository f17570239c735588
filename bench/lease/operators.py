"""How fast are single operators? On every backend that has kernels for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.lease.measure import Row, Work, captured, timed
from bench.test_blocks import BLOCKS
from bench.test_grouped_experts import WINDOWS, published_layer
from moce_kernels import (
    ExpertWeights,
    channel_attention,
    depthwise_conv,
    expert_weight_shapes,
    fft_attention,
    gated_depthwise_conv,
    grouped_experts,
    pointwise_conv,
    routing_plan,
)
from moce_kernels.backends import BACKENDS, why_not


def _activation(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    t = torch.randn(shape, device=device, dtype=dtype)
    return t.contiguous(memory_format=torch.channels_last)


Case = tuple[str, str, list[Tensor], Callable[..., Tensor], int]


def cases(device: torch.device, dtype: torch.dtype, large: bool) -> Iterator[Case]:
    """Operator, size, leaves, call, and the bytes that forward cannot do without."""
    batch, side = (16, 256) if large else (1, 32)
    some = functools.partial(_activation, device=device, dtype=dtype)
    parameter = functools.partial(torch.randn, device=device)

    for window in WINDOWS:
        leaves = [some((batch, 48, side, side)) for _ in range(3)]
        leaves += [parameter(48), parameter(48)]
        call = functools.partial(_swapped, fft_attention, window=window)
        yield "fft_attention", f"window {window}", leaves, call, 4 * _bytes(leaves[0])
    for kernel, channels in ((3, 128), (7, 128)):
        x = some((batch, channels, side, side))
        leaves = [x, parameter(channels, 1, kernel, kernel) / kernel]
        call = functools.partial(_swapped, depthwise_conv)
        yield "depthwise_conv", f"{kernel} x {kernel}", leaves, call, 2 * _bytes(x)
    x = some((batch, 128, side, side))
    leaves, call = (
        [x, parameter(128, 1, 3, 3) / 3],
        functools.partial(_swapped, gated_depthwise_conv),
    )
    yield "gated_depthwise_conv", "128 to 64", leaves, call, 3 * _bytes(x) // 2
    for inner, outer in ((32, 128), (64, 32), (256, 768)):
        size = side if inner < 256 else side // 4
        x, residual = some((batch, inner, size, size)), some((batch, outer, size, size))
        leaves = [x, parameter(outer, inner) / inner**0.5, parameter(inner), parameter(inner)]
        moved = _bytes(x) + _bytes(residual)
        yield "pointwise_conv", f"norm, {inner} to {outer}", leaves, _normed, moved
    query = some((batch, 144, side, side))
    leaves = [query, parameter(1), parameter(48, 48) / 7]
    call = functools.partial(_attend)
    yield "channel_attention", "48 channels", leaves, call, 4 * _bytes(query) // 3
    for name, (block, shapes, _, moved) in BLOCKS.items():
        x = some((batch, 48, side, side))
        leaves = [x, *(parameter(*shape) / max(1, shape[-1]) ** 0.5 for shape in shapes)]
        yield name, "48 channels", leaves, block, int(moved * _bytes(x))


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def _swapped(operator: Callable[..., Tensor], backend: str, *leaves: Tensor, **more: Any) -> Tensor:
    return operator(*leaves, **more, backend=backend)


def _normed(backend: str, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return pointwise_conv(x, weight, norm=(scale, shift), backend=backend)


def _attend(backend: str, query: Tensor, temperature: Tensor, weight: Tensor) -> Tensor:
    return channel_attention(query, None, temperature, weight, backend=backend)


def _directions(
    call: Callable[..., Tensor], leaves: list[Tensor], device: torch.device, graph: bool
) -> Iterator[Row]:
    """Forward alone, and with backward; from a CUDA graph, so that the host's launches, of some 0.1
    ms an operator, are no part of it, if ``graph``."""

    def row(direction: str, work: Work) -> Row:
        try:
            work = captured(work) if graph and device.type == "cuda" else work
        except RuntimeError as problem:
            return {"direction": direction, "problem": repr(problem)[:300]}
        return {"direction": direction, **timed(work, device, 0.15)}

    with torch.no_grad():
        yield row("forward", lambda: call(*leaves))
    for leaf in leaves:
        leaf.requires_grad_()
    grad = torch.randn_like(call(*leaves))
    yield row("forward and backward", lambda: torch.autograd.grad(call(*leaves), leaves, grad))
    for leaf in leaves:
        leaf.requires_grad_(False)


def _some_cases(device: torch.device, dtype: str, some: str | None) -> Iterator[Case]:
    for case in cases(device, getattr(torch, dtype), device.type == "cuda"):
        if some is None or case[0] in some.split(","):
            yield case


def operators(device: torch.device, dtype: str, some: str | None) -> Iterator[Row]:
    """Forward, and with backward, of all operators or ``some``."""
    for operator, size, leaves, call, moved in _some_cases(device, dtype, some):
        for backend in BACKENDS:
            if why_not(backend, operator, device) is None:
                row = {"operator": operator, "size": size, "dtype": dtype, "backend": backend}
                for found in _directions(functools.partial(call, backend), leaves, device, True):
                    yield {**row, "shape": list(leaves[0].shape), "bytes": moved, **found}


def profiled(device: torch.device, dtype: str, some: str | None) -> Iterator[Row]:
    """One call of each, forward and backward, between the profiler's start and stop."""
    for operator, size, leaves, call, _ in _some_cases(device, dtype, some):
        backend = next(b for b in BACKENDS if why_not(b, operator, device) is None)
        for leaf in leaves:
            leaf.requires_grad_()

        def work(call: Callable[..., Tensor] = call, leaves: list[Tensor] = leaves) -> None:
            out = call(backend, *leaves)  # noqa: B023, called before the next turn
            torch.autograd.grad(out, leaves, out.detach())

        work()  # kernels are compiled
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        work()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        yield {"profiled": operator, "size": size, "backend": backend}


def layer_of_experts(
    device: torch.device, dtype: torch.dtype, large: bool
) -> tuple[list[Tensor], Callable[..., Tensor], Tensor]:
    """Leaves, the layer as a function of a backend and the leaves, and the logits of its routes."""
    batch, dim, side = (32, 64, 64) if large else (4, 16, 16)
    ranks = [dim // 8, dim // 4, dim // 2, dim]
    logits = torch.eye(4, device=device).repeat(batch // 4, 1)
    plan = routing_plan(logits, 1, backend="reference")
    leaves = [_activation((batch, dim, side, side), device, dtype) for _ in range(2)]
    for shape in expert_weight_shapes(dim, ranks).values():
        leaves.append(torch.randn(shape, device=device) / 8)

    def call(backend: str, x: Tensor, shared: Tensor, *weights: Tensor) -> Tensor:
        w = ExpertWeights(*weights)
        return grouped_experts(x, shared, plan, w, ranks, WINDOWS, backend=backend)

    return leaves, call, logits


def experts(device: torch.device, published: str | None) -> Iterator[Row]:
    """A layer of experts, a quarter of a batch of 32 to each, beside the published dispatch."""
    large = device.type == "cuda"
    for dtype in (torch.float32, torch.bfloat16):
        leaves, call, logits = layer_of_experts(device, dtype, large)
        contenders = {
            backend: (leaves, functools.partial(call, backend))
            for backend in BACKENDS
            if why_not(backend, "grouped_experts", device) is None
        }
        if published is not None and dtype == torch.float32:
            weights, theirs = published_layer(published, leaves[0].shape[1], logits)
            call_theirs = functools.partial(theirs, "published")
            contenders["published"] = [*leaves[:2], *weights], call_theirs
        for name, (every, work) in contenders.items():
            # The published dispatch reads sizes back to the host: no graph can hold it.
            for found in _directions(work, every, device, False):
                yield {"contender": name, "dtype": str(dtype)[6:], **found}
