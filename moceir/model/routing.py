"""The router, which chooses each image's experts, and the loss that trains it (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from moce_kernels import RoutingPlan, routing_plan
from moceir.model.layers import pooled


class BlockRouting(NamedTuple):
    """What the router of one decoder block decided for a batch of B images."""

    plan: RoutingPlan
    logits: Tensor
    """(B, n)"""
    noisy: Tensor
    """(B, n): what was decided by."""
    router: Router


class Router(nn.Module):
    """``g(x) = top-k(softmax(W x + noise))``, one decision for a whole image (eq. 4).

    Logits come from the pooled features and from the frequency embedding of the bottleneck, whose
    part ``of_frequency`` computes for all routers.

    Args:
        dim, frequency_dim: channels of the features and of the embedding.
        complexity: (n,) parameters of each expert, on the CPU.
        scale: ``max`` or ``min``, what the complexity bias b_i is relative to (eq. 6).
        use_complexity: weight the importance with b_i (eq. 5); False is the ``balance`` baseline.
        noise: ``train``, ``always`` or ``never``.
    """

    complexity_bias: Tensor

    def __init__(
        self,
        dim: int,
        frequency_dim: int,
        complexity: Tensor,
        top_k: int,
        use_complexity: bool,
        scale: str,
        noise: str,
    ) -> None:
        super().__init__()
        n = complexity.numel()
        self.from_features = nn.Linear(dim, n, bias=False)
        self.from_frequency = nn.Linear(frequency_dim, n, bias=False)
        reference = complexity.max() if scale == "max" else complexity.min()
        # Follows from the ranks: not stored with the weights. Divided on the CPU, wherever the
        # network is made: on the device "meta" that would load torch.compile, which takes seconds.
        bias = torch.tensor((complexity / reference).tolist(), dtype=complexity.dtype)
        self.register_buffer("complexity_bias", bias, persistent=False)
        self.top_k = top_k
        self.use_complexity = use_complexity
        self.noise = noise
        self.noise_std = 1.0 / n
        self.target: Tensor | None = None
        self.forced: int | None = None

    def forward(self, x: Tensor, frequency: Tensor) -> BlockRouting:
        """x: (B, C, H, W); frequency: (B, n), from ``of_frequency``."""
        # A route is a discrete choice: made in float32 whatever the precision around it.
        with torch.autocast(x.device.type, enabled=False):
            features = pooled(x, torch.float32)
            logits = torch.addmm(frequency, features, self.from_features.weight.mT)
        noisy = logits
        if self.noise == "always" or (self.noise == "train" and self.training):
            # Processes that share a batch draw the whole batch's noise, and each takes its rows.
            rank, world = _replicas(self)
            noise = torch.randn((world, *logits.shape), dtype=logits.dtype, device=logits.device)[
                rank
            ]
            noisy = torch.add(logits, noise, alpha=self.noise_std)
        if self.forced is not None:
            noisy = _with_first_choice(noisy, self.forced)
        return BlockRouting(routing_plan(noisy, self.top_k), logits, noisy, self)


def of_frequency(routers: Sequence[Router], embedding: Tensor) -> list[Tensor]:
    """What the frequency embedding (B, F) adds to the logits of each router, (B, n) float32 each:
    one product for all of them, since on a GPU every launch costs."""
    with torch.autocast(embedding.device.type, enabled=False):
        weights = [router.from_frequency.weight for router in routers]
        logits = F.linear(embedding.float(), torch.cat(weights))
        return list(logits.split([len(weight) for weight in weights], dim=1))


def auxiliary_loss(routings: Sequence[BlockRouting]) -> Tensor:
    """Mean over the blocks of eq. 7, ``1/2 CV(Imp)^2 + 1/2 CV(Load)^2``; zero in evaluation.

    Over the batches of all processes that train together. Within ``supervised`` it is the cross
    entropy of the logits and the experts named there instead. Blocks are taken together: their
    numbers are few, and on a GPU every launch costs. Their routers differ in their experts'
    complexity alone.
    """
    one = routings[0].router
    if not one.training:
        return routings[0].logits.new_zeros(())
    logits = torch.stack([r.logits for r in routings])  # (D, B, n)
    if one.target is not None:
        return F.cross_entropy(logits.flatten(0, 1), one.target.repeat(len(routings)))
    importance = logits.softmax(dim=-1).sum(dim=1)
    if one.use_complexity:
        importance = torch.stack([r.router.complexity_bias for r in routings]) * importance
    # Load (Shazeer et al. 2017): the chance, under fresh noise, to reach the k-th noisy logit.
    noisy = torch.stack([r.noisy for r in routings])
    last = torch.stack([r.plan.expert[:, -1:] for r in routings])
    load = torch.special.ndtr((logits - noisy.gather(2, last)) / one.noise_std).mean(dim=1)
    _, world = _replicas(one)
    if world > 1:
        from torch.distributed.nn.functional import all_reduce

        importance, load = all_reduce(torch.stack([importance, load / world]))
    return 0.5 * squared_variation(torch.stack([importance, load])).sum(dim=0).mean()


def _replicas(router: Router) -> tuple[int, int]:
    """Rank and number of the processes that train together."""
    if router.training and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def routers(model: nn.Module) -> Iterator[Router]:
    """The routers of a network."""
    return (module for module in model.modules() if isinstance(module, Router))


@contextmanager
def supervised(model: nn.Module, experts: Tensor) -> Iterator[None]:
    """Train all routers of a network towards the given expert of each image, inside the block.

    experts: (B,) int64, 0 the cheapest.
    """
    for router in routers(model):
        router.target = experts
    try:
        yield
    finally:
        for router in routers(model):
            router.target = None


@contextmanager
def forced_expert(model: nn.Module, expert: int) -> Iterator[None]:
    """Force the same expert (0 is the cheapest) on every image in every decoder block.

    It gets the gate of the expert that the router would have chosen, and the other way round, so
    that only the expert changes.
    """
    for router in routers(model):
        router.forced = expert
    try:
        yield
    finally:
        for router in routers(model):
            router.forced = None


def _with_first_choice(logits: Tensor, expert: int) -> Tensor:
    """(B, n) logits in which ``expert`` and the first choice have changed places."""
    first = logits.argmax(dim=-1, keepdim=True)
    forced = torch.full_like(first, expert)
    exchanged = logits.scatter(-1, first, logits.gather(-1, forced))
    return exchanged.scatter(-1, forced, logits.gather(-1, first))


def squared_variation(x: Tensor) -> Tensor:
    """Squared coefficient of variation of the last dimension, with the unbiased deviation."""
    return (x.std(dim=-1) / (x.mean(dim=-1) + 1e-8)) ** 2
