"""Muon for the weight matrices, AdamW for everything else, in one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# The quintic of Jordan et al. 2024: its slope at 0 is steep, so that five steps bring every
# singular value from far below 1 into about 0.7 to 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of each matrix U S V^T, by Newton-Schulz iteration.

    matrices: (N, rows, columns), any floating dtype; rows <= columns is faster. Returns the same.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT, steps).mT
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-12)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x


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
        lr, betas, weight_decay: as in ``torch.optim.AdamW``; the decay is for both.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        momentum: float = 0.95,
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
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p, gradient in gradients.items():
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
                state["momentum"] = torch.zeros_like(p)
            state["step"] += 1
            average = state["momentum"].lerp_(gradient, 1 - momentum)
            matrix = gradient.lerp(average, momentum).flatten(1)
            rows, columns = matrix.shape
            alike[rows, columns].append((p, matrix))
        for (rows, columns), entries in alike.items():
            updates = orthogonalize(torch.stack([matrix for _, matrix in entries]))
            for (p, _), update in zip(entries, updates, strict=True):
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-lr * 0.2 * max(rows, columns) ** 0.5)
