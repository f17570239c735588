"""Samples of grouped_experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from moce_kernels import ExpertWeights, RoutingPlan, expert_weight_shapes, grouped_experts
from moce_kernels.triton_kernels import interpreted
from tests.ops.spec import Sample, activations


def sample(
    shape: tuple[int, int, int, int],
    layout: str,
    ranks: tuple[int, ...],
    windows: tuple[int, ...],
    index: list[list[int]],
) -> Sample:
    x, shared = activations(2, shape, layout)
    slots = torch.tensor(index, dtype=torch.int64).reshape(shape[0], len(index[0]) if index else 1)
    # In Python: fake and meta tensors have no values to sort.
    flat = [expert for experts in index for expert in experts]
    order = torch.tensor(sorted(range(len(flat)), key=flat.__getitem__), dtype=torch.int64)
    offsets = torch.tensor([0] + [sum(f <= e for f in flat) for e in range(len(ranks))])
    gate = torch.rand(slots.shape) + 0.1
    weights = {}
    for role, weight_shape in expert_weight_shapes(shape[1], ranks).items():
        fan_in = {"in_proj": shape[1], "mod_proj": shape[1], "query_dw": 9, "key_value_dw": 49}
        weights[role] = torch.randn(weight_shape) / fan_in.get(role, max(ranks)) ** 0.5

    def call(backend: str | None, x: Tensor, shared: Tensor, gate: Tensor, **w: Tensor) -> Tensor:
        on_device = [t.to(x.device) for t in (slots, order, offsets)]
        plan = RoutingPlan(on_device[0], gate, *on_device[1:])
        return grouped_experts(x, shared, plan, ExpertWeights(**w), ranks, windows, backend=backend)

    def raw(x: Tensor, shared: Tensor, gate: Tensor, **w: Tensor) -> tuple[Any, ...]:
        on_device = [t.to(x.device) for t in (slots, order, offsets)]
        plan = (on_device[0], gate, *on_device[1:])
        return (x, shared, *plan, list(w.values()), list(ranks), list(windows), 1e-5)

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-top{slots.shape[1]}",
        {"x": x, "shared": shared, "gate": gate, **weights},
        call,
        raw,
        frozenset({"gate", *weights}),
    )


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    ranks, windows = (3, 6, 12, 24), (4, 8, 16, 32)
    yield sample((4, 24, 35, 41), "channels_last", ranks, windows, [[3], [0], [2], [1]])
    yield sample((2, 24, 33, 9), "contiguous", ranks, windows, [[3, 0], [2, 3]])
    yield sample((2, 32, 16, 64), "channels_last", (16, 32), (8, 16), [[1], [0]])
    yield sample((2, 7, 9, 10), "sliced", (5, 7), (4, 8), [[1], [1]])
    yield sample((1, 8, 4, 5), "expanded", (2, 8), (4, 32), [[1]])
    # One pixel; many of them, so that errors are compared and not single roundings, and three
    # channels at least: over two a LayerNorm's gradient is rounding alone.
    turns = [[image % 2] for image in range(8)]
    yield sample((8, 4, 1, 1), "contiguous", (3, 4), (4, 8), turns)
    if not interpreted():  # where they take minutes, and the three above launch the same
        # The same with more gates and wider norms: on a GPU the three above exceed what is allowed
        # (docs/performance.md), where a gradient is one or two numbers, or a norm is over three.
        yield sample((5, 11, 9, 10), "sliced", (7, 11), (4, 8), [[1]] * 5)
        yield sample((6, 8, 4, 5), "expanded", (2, 8), (4, 32), [[1]] * 6)
        turns = [[image % 2] for image in range(32)]
        yield sample((32, 12, 1, 1), "contiguous", (8, 12), (4, 8), turns)
    # The larger expert has more blocks of channels.
    yield sample((2, 6, 9, 35), "channels_last", (4, 20), (4, 8), [[1], [0]])
    # More than a program has at a time, of every number of channels.
    yield sample((1, 136, 4, 5), "channels_last", (40, 72), (4, 8), [[1, 0]])
    yield sample((0, 8, 16, 16), "channels_last", (2, 8), (4, 8), [])


def tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield sample((2, 3, 5, 4), "contiguous", (1, 2), (4, 8), [[1, 0], [0, 1]])


def launched() -> Iterator[Sample]:
    ranks, windows = (8, 16, 32, 64), (4, 8, 16, 32)
    yield sample((2, 64, 32, 32), "channels_last", ranks, windows, [[0], [3]])
    yield sample((1, 1, 1, 1), "contiguous", (1,), (4,), [[0]])


def timed(batch: int, side: int) -> Iterator[Sample]:
    """Mixed routes: as many images for each of four experts."""
    batch, side, ranks = max(8, 2 * batch), side // 4, (8, 16, 32, 64)
    routes = [[image % 4] for image in range(batch)]
    yield sample((batch, 64, side, side), "channels_last", ranks, (4, 8, 16, 32), routes)
