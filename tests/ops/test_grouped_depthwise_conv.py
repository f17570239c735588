"""The depthwise convolutions of a layer of experts, steps of grouped_experts in the CUDA library.

Against a plain loop over slots, on a GPU or with what test_cuda_kernels.py compiles for CPUs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from moce_kernels.ops import grouped_depthwise_conv as _defines  # noqa: F401
from moce_kernels.reference.depthwise_conv import depthwise_conv
from tests.ops.spec import device_of_library

# Of the largest value: sums in float32 of as many terms as a convolution or a gradient has, and the
# rounding of a result.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
RANKS = {
    "usual": [8, 16, 32, 64],
    "small": [2, 4, 8, 16],
    "odd": [3, 8, 5, 13],
    "wide": [3, 140],  # more channels than a block has at a time
    "alone": [6],
    "many": [1 + e % 5 for e in range(40)],  # more than a launch takes
}
PLANS: dict[str, tuple[str, list[list[int]]]] = {
    "top1": ("usual", [[3], [1], [0], [3], [2]]),
    "top2": ("usual", [[0, 3], [3, 2], [2, 3]]),  # no slot for expert 1
    "small": ("small", [[3], [1], [0], [3], [2]]),
    "odd": ("odd", [[1, 0, 3], [2, 1, 0]]),
    "wide": ("wide", [[1], [0]]),
    "alone": ("alone", [[0], [0]]),
    "many": ("many", [[31, 0], [32, 39]]),
    "none": ("small", []),
}


class Case(NamedTuple):
    plan: str
    layout: str
    size: tuple[int, int]
    dtype: torch.dtype
    kernel: int
    times: int

    @property
    def ranks(self) -> list[int]:
        return RANKS[PLANS[self.plan][0]]

    @property
    def experts(self) -> list[int]:
        """Of each slot."""
        return list(itertools.chain(*PLANS[self.plan][1]))

    def channels(self, slot: int) -> int:
        return self.times * self.ranks[self.experts[slot]]

    def rows(self, slot: int) -> slice:
        """Those of the weights that are the slot's."""
        first = self.times * sum(self.ranks[: self.experts[slot]])
        return slice(first, first + self.channels(slot))

    def plan_on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """index, order, offsets."""
        order = sorted(range(len(self.experts)), key=self.experts.__getitem__)
        offsets = [sum(e < i for e in self.experts) for i in range(len(self.ranks) + 1)]
        found = (torch.tensor(t, dtype=torch.int64) for t in (self.experts, order, offsets))
        index, *rest = (t.to(device) for t in found)
        return index.view(len(PLANS[self.plan][1]), -1) if self.experts else index, *rest

    def empty(self, device: torch.device) -> Tensor:
        """NaN, with room for the widest expert, and for a channel more."""
        slots, channels = len(self.experts), self.times * max(self.ranks)
        nan = {"fill_value": float("nan"), "dtype": self.dtype, "device": device}
        if self.layout == "sliced_last":  # pixels an odd number of elements apart
            return torch.full((slots, *self.size, channels + 1), **nan).permute(0, 3, 1, 2)
        memory_format = getattr(torch, f"{self.layout}_format", None) or torch.channels_last
        t = torch.full((slots, channels + channels % 2, *self.size), **nan)
        return t.contiguous(memory_format=memory_format)

    def filled(self, device: torch.device) -> Tensor:
        """Random in the channels of each slot's expert, NaN in the others."""
        t = self.empty(device)
        for slot in range(len(self.experts)):
            c = self.channels(slot)
            t[slot, :c] = torch.randn(c, *self.size).to(device, self.dtype)
        return t

    def weights(self, device: torch.device) -> tuple[Tensor, Tensor]:
        total = self.times * sum(self.ranks)
        weight = torch.randn(total, self.kernel, self.kernel) / self.kernel
        return weight.to(device), torch.randn(total).to(device)


def cases() -> Iterator[Case]:
    for kernel, times, first in ((3, 1, "top1"), (7, 2, "small")):
        for dtype in LIMITS:
            for layout in ("channels_last", "contiguous", "sliced_last"):
                for plan in (first, "odd") if kernel == 3 else ("odd",):
                    yield Case(plan, layout, (37, 45), dtype, kernel, times)
            for plan in (first, "alone", "none"):
                yield Case(plan, "channels_last", (19, 22), dtype, kernel, times)
        yield Case("many", "channels_last", (7, 9), torch.float32, kernel, times)
        for size in ((1, 1), (2, 130), (70, 3)):
            yield Case(first, "channels_last", size, torch.bfloat16, kernel, 3 - times)
    yield Case("top2", "channels_last", (19, 22), torch.bfloat16, 3, 2)
    yield Case("top2", "channels_last", (9, 14), torch.bfloat16, 7, 1)
    yield Case("wide", "channels_last", (8, 14), torch.bfloat16, 3, 2)
    yield Case("wide", "channels_last", (8, 14), torch.float32, 7, 1)


def name(case: Case) -> str:
    size, dtype = "x".join(map(str, case.size)), str(case.dtype).removeprefix("torch.")
    return f"{case.plan}-{case.layout}-{size}-{dtype}-{case.kernel}x{case.kernel}-{case.times}"


@pytest.fixture(scope="module")
def device() -> torch.device:
    return device_of_library("depthwise_conv", "grouped_depthwise_conv")


def assert_close(found: Tensor, exact: Tensor, dtype: torch.dtype, scale: Tensor) -> None:
    """To within what is allowed of ``scale``."""
    error = (found.double() - exact).abs().max()
    assert error <= LIMITS[dtype] * scale + 1e-30, (error, scale)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", list(cases()), ids=name)
def test_each_slot_as_its_expert(case: Case, flip: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    weight, bias = case.weights(device)
    x, out = case.filled(device), case.empty(device)
    index, _, _ = case.plan_on(device)

    torch.ops.moce_kernels.grouped_depthwise_conv(
        x, weight, None if flip else bias, index, case.ranks, case.times, flip, out
    )

    taps = weight.flip(1, 2) if flip else weight
    for slot in range(len(case.experts)):
        c, rows = case.channels(slot), case.rows(slot)
        exact = depthwise_conv(
            x[slot : slot + 1, :c].double(),
            taps[rows, None].double(),
            None if flip else bias[rows].double(),
        )[0]
        assert_close(out[slot, :c], exact, case.dtype, exact.abs().max())
        assert out[slot, c:].isnan().all(), "channels beyond the rank are left alone"


@pytest.mark.parametrize("case", list(cases()), ids=name)
def test_gradients_of_weights(case: Case, device: torch.device) -> None:
    torch.manual_seed(0)
    weight, bias = case.weights(device)
    x, grad = case.filled(device), case.filled(device)
    _, order, offsets = case.plan_on(device)

    both = torch.ops.moce_kernels.grouped_depthwise_conv_backward_weight(
        grad, x, order, offsets, case.ranks, case.times, case.kernel
    )
    of_weight, of_bias = both.split([weight.numel(), bias.numel()])
    found = of_weight.view_as(weight), of_bias

    exact = torch.zeros_like(weight, dtype=torch.float64), torch.zeros_like(bias).double()
    for slot in range(len(case.experts)):
        c, rows = case.channels(slot), case.rows(slot)
        w, b = weight[rows, None].double().requires_grad_(), bias[rows].double().requires_grad_()
        out = depthwise_conv(x[slot : slot + 1, :c].double(), w, b)
        dw, db = torch.autograd.grad(out, (w, b), grad[slot : slot + 1, :c].double())
        exact[0][rows] += dw[:, 0]
        exact[1][rows] += db
    used = set(case.experts)
    for ours, right in zip(found, exact, strict=True):
        assert ours.shape == right.shape and ours.dtype == torch.float32
        # Of a sum whose terms are exact in any dtype, as float32 adds them up.
        assert_close(ours, right, torch.float32, right.abs().max())
    for e in set(range(len(case.ranks))) - used:
        first = case.times * sum(case.ranks[:e])
        rows = slice(first, first + case.times * case.ranks[e])
        assert not found[0][rows].any() and not found[1][rows].any()


def test_same_every_time(device: torch.device) -> None:
    case = Case("top2", "channels_last", (37, 45), torch.bfloat16, 3, 1)
    x, grad = case.filled(device), case.filled(device)
    _, *plan = case.plan_on(device)
    operator = torch.ops.moce_kernels.grouped_depthwise_conv_backward_weight
    once, again = (operator(grad, x, *plan, case.ranks, 1, 3) for _ in range(2))
    assert torch.equal(once, again)


def test_slots_beyond_the_plan(device: torch.device) -> None:
    """A number that is no expert's: nothing is written, as nothing is known of it."""
    case = Case("alone", "channels_last", (5, 6), torch.float32, 3, 1)
    x, out = case.filled(device), case.empty(device)
    weight, bias = case.weights(device)
    index = torch.tensor([1, -1], device=device)
    torch.ops.moce_kernels.grouped_depthwise_conv(x, weight, bias, index, [6], 1, False, out)
    assert out.isnan().all()


def test_registration(device: torch.device) -> None:
    case = Case("top2", "channels_last", (9, 5), torch.float32, 3, 1)
    x, grad = (torch.randn(6, 64, 9, 5, device=device) for _ in range(2))
    weight, bias = case.weights(device)
    index, *plan = case.plan_on(device)
    ops, checks = torch.ops.moce_kernels, ("test_schema", "test_faketensor")
    torch.library.opcheck(
        ops.grouped_depthwise_conv.default,
        (x, weight, bias, index, case.ranks, 1, False, torch.empty_like(x)),
        test_utils=checks,
    )
    torch.library.opcheck(
        ops.grouped_depthwise_conv_backward_weight.default,
        (grad, x, *plan, case.ranks, 1, 3),
        test_utils=checks,
    )


def test_refusals(device: torch.device) -> None:
    case = Case("alone", "channels_last", (4, 5), torch.float32, 3, 1)
    x, out = case.filled(device), case.empty(device)
    weight, bias = case.weights(device)
    index, order, offsets = case.plan_on(device)
    ops = torch.ops.moce_kernels
    good = {
        "x": x, "weight": weight, "bias": bias, "index": index, "ranks": [6], "times": 1,
        "flip": False, "out": out,
    }  # fmt: skip
    for bad, message in (
        ({"x": x[:, :5]}, "x must be"),
        ({"out": out[..., 1:]}, "out must have"),
        ({"out": out.half()}, "out must have"),
        ({"weight": weight[..., :2]}, "3 x 3 or 7 x 7"),
        ({"weight": weight[:5]}, "weight must be"),
        ({"bias": bias[:5]}, "bias must be"),
        ({"index": index.int()}, "index must be"),
        ({"ranks": [6, 0]}, "rank must be"),
        ({"ranks": []}, "there must be an expert"),
        ({"times": 0}, "times must be"),
        ({"x": x.double(), "out": out.double()}, "expected float32"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.grouped_depthwise_conv(**{**good, **bad})
    for plan, message in (
        ((order[:1], offsets), "order must be"),
        ((order, offsets.int()), "offsets must be"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.grouped_depthwise_conv_backward_weight(x, x, *plan, [6], 1, 3)
    with pytest.raises(RuntimeError, match="grad must have"):
        ops.grouped_depthwise_conv_backward_weight(x[:1], x, order, offsets, [6], 1, 3)
