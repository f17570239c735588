from typing import NamedTuple

from torch import Tensor

from moce_kernels.reference import routing_plan as reference


class RoutingPlan(NamedTuple):
    index: Tensor
    gate: Tensor
    order: Tensor
    offsets: Tensor


def routing_plan(logits, top_k, backend=None):
    return RoutingPlan(*reference.routing_plan(logits, top_k))
