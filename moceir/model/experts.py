"""Complexity experts (Sec. 3.2): one bank of weights and the layer that dispatches into it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moce_kernels import ExpertWeights, expert_weight_shapes, grouped_experts
from moce_kernels.reference.grouped_experts import every_expert
from moceir.model.routing import BlockRouting, Router


class ExpertBank(nn.Module):
    """The weights of n experts e_i on C channels, side by side (see ``ExpertWeights``).

    Expert i projects to rank r_i and mixes with an FFT attention of window w_i (eq. 2), is
    modulated by the shared expert (eq. 1) and projects back:
    ``P2(FFT-WSA(P0 x) * SiLU(P1 S)) + x``.

    Args:
        dim: C.
        ranks, windows: r_i and w_i, the cheapest expert first.
        gain: of the initial weights. 1 are the defaults of ``nn.Conv2d``, which make every
            convolution's output smaller than its input; sqrt(3) keeps the size.
    """

    def __init__(
        self, dim: int, ranks: Sequence[int], windows: Sequence[int], gain: float = 1.0
    ) -> None:
        super().__init__()
        self.dim, self.ranks, self.windows = dim, tuple(ranks), tuple(windows)
        self.every = False
        """Whether all experts run, whatever the route: for what has no sparse dispatch."""
        for role, shape in expert_weight_shapes(dim, ranks).items():
            self.register_parameter(role, nn.Parameter(torch.empty(shape)))
        self.reset_parameters(gain)

    def reset_parameters(self, gain: float = 1.0) -> None:
        """The defaults of ``nn.Conv2d``, times ``gain``, and ``nn.LayerNorm``, expert by expert."""
        with torch.no_grad():
            for w, rank in zip(self.weights().split(self.ranks), self.ranks, strict=True):
                fan_in = {
                    "in_proj": self.dim,
                    "mod_proj": self.dim,
                    "query_dw": 9,
                    "query_dw_bias": 9,
                    "key_value_dw": 49,
                    "key_value_dw_bias": 49,
                }
                for role, tensor in zip(w._fields, w, strict=True):
                    bound = gain / math.sqrt(fan_in.get(role, rank))
                    tensor.uniform_(-bound, bound)
                w.norm.fill_(1)
                w.norm_bias.zero_()

    def weights(self) -> ExpertWeights:
        """The bank as the kernels take it."""
        return ExpertWeights(*(getattr(self, role) for role in ExpertWeights._fields))

    def complexity(self) -> Tensor:
        """(n,) number of parameters p_i of each expert (eq. 6), on the CPU."""
        counts = [sum(t.numel() for t in w) for w in self.weights().split(self.ranks)]
        return torch.tensor(counts, dtype=torch.float32, device="cpu")

    def forward(self, x: Tensor, shared: Tensor, routing: BlockRouting) -> Tensor:
        """``sum_j g_j e_j(x, S)``: (B, C, H, W), from x and S of that shape."""
        plan, sizes = routing.plan, (self.ranks, self.windows)
        if self.every:
            return every_expert(x, shared, plan.expert, plan.gate, self.weights(), *sizes)
        return grouped_experts(x, shared, plan, self.weights(), *sizes)


class ExpertLayer(nn.Module):
    """The router (eq. 4), and the experts that it chooses for each image (eq. 1 and 2)."""

    def __init__(self, bank: ExpertBank, router: Router) -> None:
        super().__init__()
        self.router = router
        self.bank = bank

    def forward(self, x: Tensor, shared: Tensor, frequency: Tensor) -> tuple[Tensor, BlockRouting]:
        """``sum_j g_j e_j(x, S)``, and the routes.

        x, shared: (B, C, H, W); frequency: (B, n), as the router takes it.
        """
        routing = self.router(x, frequency)
        return self.bank(x, shared, routing), routing


def change_by_experts(routed: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """``sum_j g_j (e_j(x, S) - x)``, what the experts of an image changed.

    routed: (B, C, H, W), ``sum_j g_j e_j(x, S)``; x: likewise; gate: (B, k).
    """
    total = gate.sum(dim=1).to(x.dtype)[:, None, None, None]
    return torch.addcmul(routed, total, x, value=-1)
