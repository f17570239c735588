"""The routing plan of a batch: which experts process which image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moce_kernels import backends
from moce_kernels.ops import _inputs, _library
from moce_kernels.reference import routing_plan as reference
from moce_kernels.registry import Cost

OPERATOR = "routing_plan"


class RoutingPlan(NamedTuple):
    """B images, k experts chosen out of n for each. Slot ``b * k + j`` is image b's j-th choice."""

    expert: Tensor  # (B, k) int64: the chosen experts, best first
    gate: Tensor  # (B, k): their weights
    order: Tensor  # (B * k,) int64: the slots, stably sorted by expert
    offsets: Tensor  # (n + 1,) int64: expert i owns order[offsets[i]:offsets[i + 1]]


def routing_plan(logits: Tensor, top_k: int, backend: str | None = None) -> RoutingPlan:
    """Choose ``top_k`` experts for every image and sort the choices by expert (eq. 4 of the paper).

    Dtypes, ``backend`` and errors are as ``moce_kernels`` says of all operators.
    Autocast does not change them.

    Args:
        logits: (B, n) scores of the experts, noise included.
        top_k: experts per image, 1 to n. Ties go to the lower index.

    Returns:
        The plan; nothing in it is read back to the host. The gates are the chosen experts' softmax
        over all n logits, not renormalised, in float32 (float64 for float64 logits). Only they
        carry a gradient.
    """
    _inputs.check_floating(OPERATOR, logits=logits)
    if logits.dim() != 2:
        raise ValueError(f"{OPERATOR}: logits must be (B, n), not {tuple(logits.shape)}")
    if not 1 <= top_k <= logits.shape[1]:
        raise ValueError(
            f"{OPERATOR}: top_k must be 1 to {logits.shape[1]}, the experts, not {top_k}"
        )
    runs = backends.choose(OPERATOR, backend, logits.device, logits.dtype)
    if runs == "reference":
        with _inputs.no_autocast(logits.device):
            return RoutingPlan(*reference.routing_plan(logits, top_k))
    gate, expert, order, offsets = _library.kernels(runs).routing_plan(logits.float(), top_k)
    return RoutingPlan(expert, gate, order, offsets)


def _cost(logits: Tensor, top_k: int) -> Cost:
    """Reads float32 scores and writes an expert, a gate and a slot for each choice; backward reads
    scores, experts and gradients and writes one for each score. A few kilobytes: launches are all
    that it costs."""
    scores, choices = logits.numel(), logits.shape[0] * top_k
    return Cost(4 * scores + 20 * choices, 0, 8 * scores + 12 * choices, 0)


def _fake(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, experts = logits.shape
    index = logits.new_empty((batch, top_k), dtype=torch.int64)
    return (
        logits.new_empty((batch, top_k)),
        index,
        index.new_empty((batch * top_k,)),
        index.new_empty((experts + 1,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, ...]) -> None:
    _, index, order, offsets = output
    ctx.save_for_backward(inputs[0], index)
    ctx.mark_non_differentiable(index, order, offsets)
    ctx.set_materialize_grads(False)  # zeros for what has no gradient


def _backward(ops: Any, ctx: Any, grad: Tensor, *of_integers: None) -> tuple[Tensor, None]:
    logits, index = ctx.saved_tensors
    scores = logits.softmax(dim=-1)
    chosen = torch.zeros_like(scores).scatter(1, index, grad)
    return torch._softmax_backward_data(chosen, scores, -1, scores.dtype), None


_library.operator(
    OPERATOR,
    "(Tensor logits, int top_k) -> (Tensor gate, Tensor index, Tensor order, Tensor offsets)",
    _fake,
    _setup_context,
    _backward,
    cost=_cost,
    kernels=("cpu", "triton", "cuda"),
    again=True,
)
