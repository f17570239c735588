"""A layer of complexity experts, each applied to the images routed to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from moce_kernels import backends
from moce_kernels.expert_weights import ExpertWeights, expert_weight_shapes
from moce_kernels.ops import _inputs, _library
from moce_kernels.ops.routing_plan import RoutingPlan
from moce_kernels.reference import grouped_experts as reference
from moce_kernels.registry import Cost

OPERATOR = "grouped_experts"


def grouped_experts(
    x: Tensor,
    shared: Tensor,
    plan: RoutingPlan,
    weights: ExpertWeights,
    ranks: Sequence[int],
    windows: Sequence[int],
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """``y_b = sum_j gate[b, j] * e_{expert[b, j]}(x_b, shared_b)`` (eq. 1, 2 and 4).

    Expert i of rank r and window P is ``P2(FFT-WSA_P(P0 x) * SiLU(P1 shared)) + x``: P0, P1 and P2
    are 1x1 convolutions between C and r channels; FFT-WSA takes its query through a 1x1 and a
    depthwise 3x3, keys and values through a 1x1 and a depthwise 7x7, applies ``fft_attention`` and
    a last 1x1. Differentiable in x, shared, the gates and the weights; experts that no image was
    routed to get zero gradients.

    Memory layouts, dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.

    Args:
        x, shared: (B, C, H, W).
        plan: from ``routing_plan`` for the same B images.
        weights: as ``expert_weight_shapes(C, ranks)`` says.
        ranks, windows: one for each expert; ranks at least 1, windows 4, 8, 16 or 32.
        eps: of the LayerNorm inside.

    Returns:
        (B, C, H, W).

    Raises:
        IndexError: the plan names an expert that does not exist. On the CPU alone: on a GPU looking
            would cost a synchronisation, and the result is undefined.
    """
    x, shared = _inputs.autocast(x.device, x, shared)
    _inputs.check_eps(OPERATOR, eps)
    _inputs.check_same(OPERATOR, x=x, shared=shared)
    _check_experts(x, weights, ranks, windows)
    _check_plan(x, plan, len(ranks))
    runs = backends.choose(OPERATOR, backend, x.device, x.dtype)
    if runs == "reference":
        with _inputs.no_autocast(x.device):
            cast = ExpertWeights(*(w.to(x.dtype) for w in weights))
            return reference.grouped_experts(
                x, shared, plan.expert, plan.gate, cast, ranks, windows, eps
            )
    return _library.kernels(runs).grouped_experts(
        x,
        shared,
        plan.expert.contiguous(),
        plan.gate.float().contiguous(),
        plan.order.contiguous(),
        plan.offsets.contiguous(),
        [w.float().contiguous() for w in weights],
        list(ranks),
        list(windows),
        eps,
    )


def _check_experts(
    x: Tensor, weights: ExpertWeights, ranks: Sequence[int], windows: Sequence[int]
) -> None:
    if not ranks or len(ranks) != len(windows) or min(ranks) < 1:
        raise ValueError(
            f"{OPERATOR}: ranks and windows must give a rank of at least 1 and a window for each "
            f"expert, not {list(ranks)} and {list(windows)}"
        )
    for window in windows:
        _inputs.check_window(OPERATOR, window)
    shapes = expert_weight_shapes(x.shape[1], ranks)
    parameters = {role: (getattr(weights, role), shape) for role, shape in shapes.items()}
    _inputs.check_parameters(OPERATOR, x.device, parameters)


def _check_plan(x: Tensor, plan: RoutingPlan, experts: int) -> None:
    index, gate, order, offsets = plan
    batch, k = x.shape[0], index.shape[-1]
    if k == 0:
        raise ValueError(f"{OPERATOR}: plan.expert must name an expert for each image, has none")
    for name, t, shape in (
        ("expert", index, (batch, k)),
        ("gate", gate, (batch, k)),
        ("order", order, (batch * k,)),
        ("offsets", offsets, (experts + 1,)),
    ):
        if tuple(t.shape) != shape:
            raise ValueError(
                f"{OPERATOR}: plan.{name} must have shape {shape} for {batch} images and {experts} "
                f"experts, not {tuple(t.shape)}"
            )
        if t.device != x.device:
            raise ValueError(f"{OPERATOR}: plan.{name} is on {t.device}, x on {x.device}")
        if name != "gate" and t.dtype != torch.int64:
            raise TypeError(f"{OPERATOR}: plan.{name} must be int64, not {t.dtype}")
    _inputs.check_floating(OPERATOR, **{"plan.gate": gate})
    no_values = torch.compiler.is_compiling() or isinstance(x, FakeTensor)
    if x.device.type == "cpu" and index.numel() and not no_values:
        low, high = (int(v) for v in index.aminmax())
        if low < 0 or high >= experts:
            raise IndexError(
                f"{OPERATOR}: plan.expert must name experts 0 to {experts - 1}, found "
                f"{low if low < 0 else high}"
            )


def _cost(
    x: Tensor,
    shared: Tensor,
    index: Tensor,
    gate: Tensor,
    order: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    ranks: list[int],
    windows: list[int],
    eps: float,
) -> Cost:
    """As if each expert had as many images. One of rank r takes 3 C r + 4 r^2 + 107 r products for
    each pixel and 15 log2 P + 11 operations for each of r values of its FFT attention; backward
    twice as many more. Forward reads x and shared and writes the output; backward reads three and
    writes two."""
    channels = x.shape[1]
    per_pixel = sum(
        2 * (3 * channels * r + 4 * r * r + 107 * r) + r * (15 * math.log2(window) + 11)
        for r, window in zip(ranks, windows, strict=True)
    )
    slots_of_expert = index.numel() / len(ranks)
    operations = slots_of_expert * x.shape[2] * x.shape[3] * per_pixel
    return Cost(3 * x.nbytes, operations, 5 * x.nbytes, 2 * operations)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    shared: Tensor,
    index: Tensor,
    gate: Tensor,
    order: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    def part(t: Tensor) -> Tensor:
        """On GPUs gradients are parts of one tensor, and begin anywhere. torch.compile must know:
        it would load those that begin where a tensor does 16 bytes at a time."""
        return t.new_empty((t.numel() + 1,))[1:].view(t.shape)

    return _inputs.new_like(x), _inputs.new_like(shared), part(gate), [part(w) for w in weights]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, weights, ctx.ranks, ctx.windows, ctx.eps = inputs
    ctx.save_for_backward(*tensors, *weights)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    dx, dshared, dgate, dweights = ops.grouped_experts_backward(
        grad, *tensors[:6], tensors[6:], ctx.ranks, ctx.windows, ctx.eps
    )
    return dx, dshared, None, dgate, None, None, dweights, None, None, None


_library.operator(
    OPERATOR,
    "(Tensor x, Tensor shared, Tensor index, Tensor gate, Tensor order, Tensor offsets,"
    " Tensor[] weights, int[] ranks, int[] windows, float eps) -> Tensor",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton"),
    composed=True,
)
_library.declare(
    "grouped_experts_backward",
    "(Tensor grad, Tensor x, Tensor shared, Tensor index, Tensor gate, Tensor order,"
    " Tensor offsets, Tensor[] weights, int[] ranks, int[] windows, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor[])",
    _fake_backward,
)
