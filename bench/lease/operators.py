"""How fast are single operators? On every backend that has kernels for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.lease.measure import Row, Work, captured, timed
from bench.microbenchmark import cost_of, images_and_side, of_dtype, timed_samples
from bench.test_grouped_experts import published_layer
from moce_kernels.backends import BACKENDS, why_not
from tests.ops.samples import SPECS, spec_of
from tests.ops.spec import Sample


def _samples(device: torch.device, some: str | None) -> Iterator[tuple[str, Sample]]:
    """Of all operators or of ``some``; small ones without a GPU."""
    size = images_and_side(device, quick=device.type == "cpu")
    for spec in SPECS:
        if some is None or spec.name in some.split(","):
            for sample in timed_samples(spec, device, *size):
                yield spec.name, sample


def _directions(
    call: Callable[..., Tensor], tensors: dict[str, Tensor], device: torch.device, graph: bool
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
        yield row("forward", lambda: call(**tensors))
    leaves = [t.requires_grad_() for t in tensors.values()]
    grad = torch.randn_like(call(**tensors))
    yield row("forward and backward", lambda: torch.autograd.grad(call(**tensors), leaves, grad))
    for leaf in leaves:
        leaf.requires_grad_(False)


def operators(device: torch.device, dtype: str, some: str | None) -> Iterator[Row]:
    """Forward, and with backward, of all operators or ``some``."""
    for operator, sample in _samples(device, some):
        tensors = of_dtype(sample, getattr(torch, dtype))
        moved = cost_of(operator, sample, tensors).bytes
        for backend in BACKENDS:
            if why_not(backend, operator, device) is None:
                row = {"operator": operator, "size": sample.name, "dtype": dtype}
                call = functools.partial(sample.call, backend)
                # The experts' reference reads sizes back to the host: no graph can hold it.
                graph = (operator, backend) != ("grouped_experts", "reference")
                for found in _directions(call, tensors, device, graph):
                    yield {**row, "backend": backend, "bytes": moved, **found}


def profiled(device: torch.device, dtype: str, some: str | None) -> Iterator[Row]:
    """One call of each, forward and backward, between the profiler's start and stop."""
    for operator, sample in _samples(device, some):
        backend = next(b for b in BACKENDS if why_not(b, operator, device) is None)
        tensors = of_dtype(sample, getattr(torch, dtype))
        leaves = [t.requires_grad_() for t in tensors.values()]

        def work(
            sample: Sample = sample,
            tensors: dict[str, Tensor] = tensors,
            leaves: list[Tensor] = leaves,
        ) -> None:
            out = sample.call(backend, **tensors)  # noqa: B023, called before the next turn
            torch.autograd.grad(out, leaves, out.detach())

        work()  # kernels are compiled
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        work()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        yield {"profiled": operator, "size": sample.name, "backend": backend}


def experts(device: torch.device, published: str | None) -> Iterator[Row]:
    """A layer of experts, a quarter of a batch of 32 to each, beside the published dispatch."""
    spec, size = spec_of("grouped_experts"), images_and_side(device, quick=device.type == "cpu")
    (ours,) = timed_samples(spec, device, *size)
    for dtype in (torch.float32, torch.bfloat16):
        tensors = of_dtype(ours, dtype)
        contenders = {
            backend: (functools.partial(ours.call, backend), tensors)
            for backend in BACKENDS
            if why_not(backend, "grouped_experts", device) is None
        }
        if published is not None and dtype == torch.float32:
            theirs = published_layer(published, ours)
            contenders["published"] = functools.partial(theirs.call, "published"), theirs.tensors
        for name, (call, given) in contenders.items():
            # The published dispatch reads sizes back to the host: no graph can hold it.
            for found in _directions(call, given, device, False):
                yield {"contender": name, "dtype": str(dtype)[6:], **found}
