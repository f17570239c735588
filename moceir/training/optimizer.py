"""The optimisers and their schedule: AdamW, or Muon for weight matrices and AdamW for the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from moceir.training.config import OptimizerConfig, TrainingConfig

# Of x (a + b x^2 + c x^4), step after step: each is the best approximation of 1 on the interval
# that the steps before leave (Amsel et al. 2025, "The Polar Express"). Singular values from 0.01 of
# the norm on come to 0.73 to 1.27, as after five steps of one and the same polynomial.
_STEPS = (
    (8.0934, -23.6205, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U V^T of each matrix U S V^T, by three Newton-Schulz steps.

    matrices: (N, rows, columns), any floating dtype; rows <= columns is faster. Returns the same.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-12)
    if 2 * matrices.shape[1] > matrices.shape[2]:
        for a, b, c in _STEPS:
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x
    # Wide matrices: the steps are made on the square x x^T, and their product is applied once.
    gram = x @ x.mT
    product = step = _factor(gram, *_STEPS[0])
    for coefficients in _STEPS[1:]:
        gram = step @ gram @ step
        step = _factor(gram, *coefficients)
        product = step @ product
    return product @ x


def _factor(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """``a + b gram + c gram^2``, what a step multiplies x by."""
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def is_matrix(parameter: Tensor) -> bool:
    """Whether a weight mixes channels with channels: those of linear layers and convolutions, but
    neither depthwise kernels nor the first and last layers and the routers' heads."""
    return parameter.ndim in (2, 4) and min(parameter.shape[:2]) >= 8


class MuonAdamW(torch.optim.AdamW):
    """AdamW that updates matrices by the orthogonalised momentum of their gradients (Muon).

    Muon's step has the size of AdamW's, 0.2 sqrt(max(rows, columns)) lr in every direction (Liu et
    al. 2025), so that one learning rate serves both. A convolution's weight is the matrix of its
    output channels by everything else. ``torch.optim.Muon`` takes two-dimensional parameters alone,
    one at a time and in bfloat16, which CPUs are slow at; matrices of one shape go together here.

    Args:
        parameters: to optimise; ``is_matrix`` tells which go to Muon.
        momentum: of Muon, Nesterov's.
        lr, betas, weight_decay: as in ``torch.optim.AdamW``; the decay is for both. ``lr`` may be
            a tensor on the parameters' device: with ``fused`` and ``capturable`` nothing of a step
            is read on the host then, and a CUDA graph can hold it.
        fused, capturable: of AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        parameters = list(parameters)
        matrices = [p for p in parameters if is_matrix(p)]
        others = [p for p in parameters if not is_matrix(p)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "momentum": momentum},
            {"params": others, "momentum": None},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            fused=fused,
            capturable=capturable,
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both; a closure is evaluated first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients: dict[nn.Parameter, Tensor] = {}
        for group in self.param_groups:
            if group["momentum"] is None:
                continue
            for p in group["params"]:
                if p.grad is not None:
                    gradients[p], p.grad = p.grad, None  # AdamW passes over it
            self._muon(group, gradients)
        super().step()
        for p, gradient in gradients.items():
            p.grad = gradient
        return loss

    def _muon(self, group: dict[str, Any], gradients: dict[nn.Parameter, Tensor]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        for p in gradients:
            if not self.state[p]:
                # AdamW looks for the step when a state is loaded; Muon has no use for it.
                self.state[p]["step"] = torch.zeros((), device=p.device)
                self.state[p]["momentum"] = torch.zeros_like(p)
        averages = [self.state[p]["momentum"] for p in gradients]
        torch._foreach_lerp_(averages, [*gradients.values()], 1 - momentum)
        matrices = torch._foreach_lerp([*gradients.values()], averages, momentum)
        if group["weight_decay"]:
            torch._foreach_mul_([*gradients], 1 - lr * group["weight_decay"])
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p, matrix in zip(gradients, matrices, strict=True):
            matrix = matrix.flatten(1)
            rows, columns = matrix.shape
            alike[rows, columns].append((p, matrix))
        for (rows, columns), entries in alike.items():
            updates = orthogonalize(torch.stack([matrix for _, matrix in entries]))
            updates = updates * (lr * (0.2 * max(rows, columns) ** 0.5))
            parameters: list[Tensor] = [p for p, _ in entries]
            torch._foreach_sub_(
                parameters, [u.reshape(p.shape) for p, u in zip(parameters, updates, strict=True)]
            )


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, lr: Tensor, capturable: bool
) -> torch.optim.AdamW:
    """The optimiser of a run, of which nothing is read on the host.

    Args:
        lr: a scalar on the parameters' device; what it holds is the learning rate.
        capturable: a CUDA graph is to hold a step.
    """
    return (MuonAdamW if config.muon else torch.optim.AdamW)(
        [*parameters],
        lr=lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
        capturable=capturable,
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """At a step from 0. It does not depend on what came before: a resumed run takes the schedule of
    its configuration and not that of its checkpoint."""
    optimizer = config.optimizer
    if optimizer.schedule == "published":
        assert config.epochs is not None  # the configuration has checked it
        return optimizer.lr * published_lr_factor(step // (config.steps // config.epochs))
    return optimizer.lr * lr_factor(step, optimizer.warmup_steps, config.steps)


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate at a step from 0: warm-up, then a cosine to 0 after the last."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))


def published_lr_factor(epoch: int) -> float:
    """Share of the learning rate in an epoch from 0, as the published code has it."""
    warmup, last = 15, 150
    if epoch < warmup:
        return epoch / (warmup - 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (last - warmup)))
