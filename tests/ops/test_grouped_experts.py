"""What is particular to grouped_experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moce_kernels import (
    ExpertWeights,
    RoutingPlan,
    expert_weight_shapes,
    grouped_experts,
    routing_plan,
)
from moce_kernels.reference.grouped_experts import every_expert
from tests.ops.samples import grouped_experts as samples
from tests.ops.spec import (
    activations,
    assert_close_to_float64,
    examples,
    sizes,
    skip_unless_it_runs,
)

BACKENDS = ["reference", "cpu"]
RANKS, WINDOWS = (2, 4, 8), (4, 8, 16)


def weights(channels: int, ranks: tuple[int, ...] = RANKS) -> ExpertWeights:
    shapes = expert_weight_shapes(channels, ranks)
    return ExpertWeights(**{role: 0.3 * torch.randn(shape) for role, shape in shapes.items()})


def arguments(batch: int = 4, channels: int = 8) -> dict[str, Any]:
    torch.manual_seed(0)
    x, shared = activations(2, (batch, channels, 9, 11), "channels_last")
    plan = routing_plan(torch.randn(batch, len(RANKS)), 1)
    return {
        "x": x,
        "shared": shared,
        "plan": plan,
        "weights": weights(channels),
        "ranks": RANKS,
        "windows": WINDOWS,
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_does_not_matter(backend: str) -> None:
    """Each image gets what it gets alone, whoever else is in the batch."""
    skip_unless_it_runs(backend, "grouped_experts")
    given = arguments()
    logits = torch.randn(4, len(RANKS))
    together = grouped_experts(**{**given, "plan": routing_plan(logits, 2)}, backend=backend)
    for b in range(4):
        one = slice(b, b + 1)
        alone = grouped_experts(
            given["x"][one],
            given["shared"][one],
            routing_plan(logits[one], 2),
            given["weights"],
            RANKS,
            WINDOWS,
            backend=backend,
        )
        torch.testing.assert_close(together[one], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_expert_is_the_same_without_a_dispatch(top_k: int) -> None:
    """What ONNX files are made of."""
    given = arguments()
    plan = routing_plan(torch.randn(4, len(RANKS)), top_k)
    tensors = given["x"], given["shared"]
    rest = given["weights"], given["ranks"], given["windows"]
    found = every_expert(*tensors, plan.expert, plan.gate, *rest)
    expected = grouped_experts(*tensors, plan, *rest, backend="reference")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bands_of_a_large_picture() -> None:
    """What does not fit a cache is taken in bands of rows: the last is cut off, two experts add."""
    skip_unless_it_runs("cpu", "grouped_experts")
    torch.manual_seed(0)
    sample = samples.sample((1, 24, 75, 800), "channels_last", (6, 24), (8, 32), [[1, 0]])
    ours = sample.call("cpu", **sample.tensors)
    exact = sample.call("reference", **sample.cast(torch.float64))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plan_need_not_be_contiguous(backend: str) -> None:
    skip_unless_it_runs(backend, "grouped_experts")
    given = arguments()
    expected = grouped_experts(**given, backend=backend)
    strided = RoutingPlan(*(t.repeat_interleave(2, dim=-1)[..., ::2] for t in given["plan"]))
    assert not strided.expert.is_contiguous()
    out = grouped_experts(**{**given, "plan": strided}, backend=backend)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unused_experts_get_zero_gradients(backend: str) -> None:
    skip_unless_it_runs(backend, "grouped_experts")
    given = arguments()
    for w in given["weights"]:
        w.requires_grad_()
    logits = torch.tensor([[0.0, 1.0, 0.0]]).expand(4, -1)  # all to the middle one
    out = grouped_experts(**{**given, "plan": routing_plan(logits, 1)}, backend=backend)
    out.square().sum().backward()
    grads = ExpertWeights(*(w.grad for w in given["weights"])).split(RANKS)
    assert all(g.abs().max() > 0 for g in grads[1])
    assert all(g.abs().max() == 0 for expert in (grads[0], grads[2]) for g in expert)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(20), deadline=None)
@given(
    channels=sizes(20),
    height=sizes(35),
    width=sizes(40),
    ranks=st.lists(st.integers(2, 18), min_size=1, max_size=3),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
    data=st.data(),
)
def test_any_shape(
    backend: str,
    channels: int,
    height: int,
    width: int,
    ranks: list[int],
    layout: str,
    grad_layout: str,
    data: st.DataObject,
) -> None:
    skip_unless_it_runs(backend, "grouped_experts")
    torch.manual_seed(channels * 1000 + height * 41 + width)
    n = len(ranks)
    windows = data.draw(st.lists(st.sampled_from([4, 8, 16, 32]), min_size=n, max_size=n))
    plan = routing_plan(torch.randn(3, n), data.draw(st.integers(1, min(n, 2))))
    shape = 3, channels, height, width
    tensors = [*activations(2, shape, layout), plan.gate, *weights(channels, tuple(ranks))]
    (grad,) = activations(1, shape, grad_layout)

    def call(runs: str, x: Tensor, shared: Tensor, gate: Tensor, *bank: Tensor) -> Tensor:
        routed, experts = plan._replace(gate=gate), ExpertWeights(*bank)
        return grouped_experts(x, shared, routed, experts, ranks, windows, eps=1.0, backend=runs)

    assert_close_to_float64(backend, call, tensors, grad)


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in (None, "reference"):
            assert grouped_experts(**arguments(), backend=backend).dtype == torch.bfloat16


def _plan(**changes: Any) -> dict[str, RoutingPlan]:
    return {"plan": arguments()["plan"]._replace(**changes)}


def _plan_on_meta(name: str) -> dict[str, RoutingPlan]:
    return _plan(**{name: getattr(arguments()["plan"], name).to("meta")})


def _weights(**changes: Any) -> dict[str, ExpertWeights]:
    return {"weights": arguments()["weights"]._replace(**changes)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shared": torch.zeros(4, 8, 9, 10)}, ValueError, "shared must have x's shape"),
        ({"shared": torch.zeros(4, 8, 9, 11).half()}, ValueError, "shared must have x's dtype"),
        (
            {"shared": torch.zeros(4, 8, 9, 11, device="meta")},
            ValueError,
            "shared must have x's device",
        ),
        ({"x": torch.zeros(4, 8, 9, 11).int()}, TypeError, "x must be float32"),
        (_weights(norm=torch.ones(14, device="meta")), ValueError, "norm is on meta"),
        (_weights(norm=torch.ones(14).int()), TypeError, "norm must be float32"),
        ({"windows": (4, 8, 12)}, ValueError, "window must be 4, 8, 16 or 32, not 12"),
        ({"windows": (4, 8)}, ValueError, "ranks and windows must give"),
        ({"ranks": (2, 4, 0)}, ValueError, "ranks and windows must give"),
        ({"ranks": (2, 4, 9)}, ValueError, r"in_proj must have shape \(15, 8\), not \(14, 8\)"),
        ({"eps": -1.0}, ValueError, "eps must be positive"),
        (_plan(expert=torch.full((4, 1), 3)), IndexError, "experts 0 to 2, found 3"),
        (_plan(expert=torch.full((4, 1), -1)), IndexError, "experts 0 to 2, found -1"),
        (
            _plan(expert=torch.zeros(3, 1).long()),
            ValueError,
            r"plan.expert must have shape \(4, 1\)",
        ),
        (
            {"plan": RoutingPlan(*torch.zeros(2, 4, 0), *torch.zeros(2, 0))},
            ValueError,
            "plan.expert must name an expert for each image",
        ),
        (_plan(order=torch.zeros(5).long()), ValueError, r"plan.order must have shape \(4,\)"),
        (_plan(order=torch.zeros(4)), TypeError, "plan.order must be int64"),
        (_plan(gate=torch.zeros(4, 1).long()), TypeError, "plan.gate must be float32"),
        *(
            (_plan_on_meta(name), ValueError, f"plan.{name} is on meta, x on cpu")
            for name in RoutingPlan._fields
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"grouped_experts: .*{message}"):
        grouped_experts(**{**arguments(), **change})


@pytest.mark.parametrize("role", ExpertWeights._fields)
def test_the_library_has_the_same_roles(role: str) -> None:
    """In the same order and of the same size: csrc/cpu/expert_weights.h."""
    skip_unless_it_runs("cpu", "grouped_experts")
    given = arguments()
    plan, bank = given["plan"], given["weights"]
    size = getattr(bank, role).numel()
    wrong = bank._replace(**{role: torch.empty(0)})
    message = rf"\b{role} must be contiguous float32 with {size} elements"
    with pytest.raises(RuntimeError, match=message):
        torch.ops.moce_kernels.grouped_experts(
            given["x"],
            given["shared"],
            *(plan.expert, plan.gate, plan.order, plan.offsets),
            list(wrong),
            RANKS,
            WINDOWS,
            1e-5,
        )


def test_refuses_a_plan_that_is_none() -> None:
    """An order that does not belong to the index would read another expert's weights."""
    skip_unless_it_runs("cpu", "grouped_experts")
    given = arguments()
    plan = routing_plan(torch.eye(4)[:, :3], 1)
    with pytest.raises(RuntimeError, match="order and offsets do not fit index"):
        grouped_experts(**{**given, "plan": plan._replace(order=plan.order.flip(0))}, backend="cpu")


def test_refuses_a_plan_that_leaves_an_image_out() -> None:
    """Nothing would be written for it."""
    skip_unless_it_runs("cpu", "grouped_experts")
    given = arguments()
    plan = routing_plan(torch.eye(3)[:1].expand(4, -1), 1)  # all to the first expert
    twice = plan._replace(order=torch.tensor([0, 1, 1, 3]))
    with pytest.raises(RuntimeError, match="order and offsets do not fit index"):
        grouped_experts(**{**given, "plan": twice}, backend="cpu")
