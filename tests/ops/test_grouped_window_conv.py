"""The window convolution of a layer of experts, a step of grouped_experts in the CUDA library.

Against a plain loop over slots, on a GPU or with what test_cuda_kernels.py compiles for CPUs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from moce_kernels.ops import grouped_window_conv as _defines  # noqa: F401
from moce_kernels.reference.window_fft_conv import window_fft_conv
from tests.ops.spec import device_of_library

RANKS, WINDOWS = [3, 6, 12, 24], [4, 8, 16, 32]
EXPERTS = len(RANKS)
# Of the largest value: sums in float32, and the rounding of a result.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
PLANS = {
    "top1": [[3], [1], [0], [3], [2]],
    "top2": [[0, 3], [3, 2], [2, 3]],  # no slot for expert 1
    "one": [[2]],
    "none": [],
}


@pytest.fixture(scope="module")
def device() -> torch.device:
    return device_of_library("window_fft_conv", "grouped_window_conv")


def tensor(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device) -> Tensor:
    """NaN, with no more memory than it needs."""
    slots, channels, height, width = shape
    if layout == "sliced_last":  # pixels two elements apart: 4 bytes at a time at most
        wide = torch.full((slots, height, width, channels + 2), float("nan"), dtype=dtype)
        return wide.to(device)[..., 1:-1].permute(0, 3, 1, 2)
    memory_format = getattr(torch, f"{layout}_format", None) or getattr(torch, layout)
    t = torch.full(shape, float("nan"), dtype=dtype, device=device)
    return t.contiguous(memory_format=memory_format)


def slots_of(index: list[list[int]]) -> list[int]:
    return list(itertools.chain(*index))


def plan_of(index: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    experts = slots_of(index)
    order = sorted(range(len(experts)), key=lambda slot: experts[slot])
    offsets = [sum(e < expert for e in experts) for expert in range(EXPERTS + 1)]
    return (
        torch.tensor(order, dtype=torch.int64, device=device),
        torch.tensor(offsets, dtype=torch.int64, device=device),
    )


def filled(
    channels: int, index: list[list[int]], size: tuple[int, int], dtype: torch.dtype, layout: str,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Random in the channels of each slot's expert, NaN in the others."""
    experts = slots_of(index)
    t = tensor((len(experts), channels, *size), dtype, layout, device)
    for slot, e in enumerate(experts):
        t[slot, : RANKS[e]] = torch.randn(RANKS[e], *size).to(device, dtype)
    return t


def cases() -> Iterator[tuple[str, str, tuple[int, int], torch.dtype]]:
    for plan in PLANS:
        for layout in ("channels_last", "contiguous", "sliced_last"):
            for dtype in LIMITS:
                yield plan, layout, (37, 45), dtype
    yield "top1", "channels_last", (64, 32), torch.bfloat16  # whole windows
    yield "top2", "channels_last", (1, 1), torch.float32
    yield "top2", "channels_last", (3, 70), torch.float16


def assert_close(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    error = (found.double() - exact).abs().max()
    assert error <= LIMITS[dtype] * exact.abs().max() + 1e-30, (error, exact.abs().max())


@pytest.mark.parametrize(("plan", "layout", "size", "dtype"), list(cases()))
def test_each_slot_as_its_expert(
    plan: str, layout: str, size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    torch.manual_seed(0)
    ops, index, rank = torch.ops.moce_kernels, PLANS[plan], max(RANKS)
    more = (plan_of(index, device), RANKS, WINDOWS)
    q = filled(rank, index, size, dtype, layout, device)
    kv = filled(2 * rank, index, size, dtype, layout, device)
    d = filled(rank, index, size, torch.float32, layout, device)
    dq, dkv = (tensor(tuple(t.shape), dtype, layout, device) for t in (q, kv))

    mixed = ops.grouped_window_conv(q, kv, *more[0], RANKS, WINDOWS)
    ops.grouped_window_conv_backward(d, q, kv, *more[0], RANKS, WINDOWS, dq, dkv)

    assert mixed.shape == q.shape and mixed.dtype == torch.float32
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    for slot, e in enumerate(slots_of(index)):
        r = RANKS[e]
        left, right = (t[slot : slot + 1, :r].double().requires_grad_() for t in (q, kv))
        exact = window_fft_conv(left, right, WINDOWS[e])
        gradients = torch.autograd.grad(exact, (left, right), d[slot : slot + 1, :r].double())
        assert_close(mixed[slot, :r], exact.detach()[0], torch.float32)
        for found, gradient in zip((dq, dkv), gradients, strict=True):
            assert_close(found[slot, :r], gradient[0], dtype)
            assert found[slot, r:].isnan().all(), "channels beyond the rank are left alone"


@pytest.mark.parametrize("offset", [0, 1, 2, 4])
def test_any_alignment(offset: int, device: torch.device) -> None:
    """16, 8 and 4 bytes are read at a time, or single elements: the same numbers."""
    torch.manual_seed(0)
    shape, index = (1, 40, 33, 20), [[3]]

    def shifted(t: Tensor) -> Tensor:
        extent = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        buffer = torch.full((extent + 8,), float("nan"), dtype=t.dtype, device=device)
        return buffer.as_strided(t.shape, t.stride(), offset).copy_(t)

    for dtype in (torch.bfloat16, torch.float32):
        q, k = (
            torch.randn(shape, device=device)
            .to(dtype)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        )
        plan = plan_of(index, device)
        expected = torch.ops.moce_kernels.grouped_window_conv(q, k, *plan, RANKS, WINDOWS)
        found = torch.ops.moce_kernels.grouped_window_conv(
            shifted(q), shifted(k), *plan, RANKS, WINDOWS
        )
        assert torch.equal(found[:, : RANKS[3]], expected[:, : RANKS[3]])


def test_more_experts_than_a_launch_takes(device: torch.device) -> None:
    torch.manual_seed(0)
    ops, ranks, windows = torch.ops.moce_kernels, [2, 6] * 5, [8, 4] * 5
    slots = [9, 8, 7, 0, 9]
    order = torch.tensor(sorted(range(5), key=lambda slot: slots[slot]), device=device)
    offsets = torch.tensor([sum(s < e for s in slots) for e in range(11)], device=device)
    q, k = (torch.randn(5, 6, 9, 13, device=device) for _ in range(2))
    mixed = ops.grouped_window_conv(q, k, order, offsets, ranks, windows)
    for slot, e in enumerate(slots):
        left, right = (t[slot : slot + 1, : ranks[e]].double() for t in (q, k))
        exact = window_fft_conv(left, right, windows[e])
        assert_close(mixed[slot, : ranks[e]], exact[0], torch.float32)


def test_registration(device: torch.device) -> None:
    plan = plan_of(PLANS["top2"], device)
    q, kv, d = (torch.randn(6, c, 9, 5, device=device) for c in (24, 48, 24))
    ops = torch.ops.moce_kernels
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        ops.grouped_window_conv_backward.default,
        (d, q, kv, *plan, RANKS, WINDOWS, torch.empty_like(q), torch.empty_like(kv)),
        test_utils=checks,
    )


def test_refusals(device: torch.device) -> None:
    ops = torch.ops.moce_kernels
    q, kv = (torch.randn(1, c, 4, 4, device=device) for c in (24, 48))
    order, offsets = plan_of([[0]], device)
    for bad, message in (
        ((q[:, :23], kv, order, offsets, RANKS, WINDOWS), "q must have"),
        ((q, kv.half(), order, offsets, RANKS, WINDOWS), "kv must have q's dtype"),
        ((q, kv, order.int(), offsets, RANKS, WINDOWS), "order must be"),
        ((q, kv, order, offsets[1:], RANKS, WINDOWS), "offsets must be"),
        ((q, kv, order, offsets, RANKS, [4, 8, 16, 31]), "window must be"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.grouped_window_conv(*bad)
