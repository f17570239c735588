from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from moceir.training.optimizer import MuonAdamW, is_matrix, orthogonalize


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    """Those from 0.01 of the norm on; smaller ones, which are noise in a momentum, grow."""
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(3, *shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(-4, 0, min(shape), dtype=torch.float64)
    result = orthogonalize(u * values @ vt)
    # The singular vectors stay: U^T result V is diagonal.
    middle = u.mT @ result @ vt.mT
    found = middle.diagonal(dim1=1, dim2=2)
    assert (middle - torch.diag_embed(found)).abs().max() < 1e-9
    large = values / values.norm() >= 0.01
    assert found[:, large].min() > 0.73
    assert found[:, large].max() < 1.27
    assert (found[:, ~large] > 50 * values[~large] / values.norm()).all()


def test_zero_gradients_give_zero_updates() -> None:
    assert torch.equal(orthogonalize(torch.zeros(1, 8, 9)), torch.zeros(1, 8, 9))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 24, 1),
        nn.Flatten(),
        nn.Linear(24 * 4, 8),
        nn.Linear(8, 4),
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer.zero_grad()
    model(torch.randn(2, 3, 6, 6, generator=generator)).square().sum().backward()
    optimizer.step()


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model = network()
    matrices = {name for name, p in model.named_parameters() if is_matrix(p)}
    assert matrices == {"2.weight", "4.weight"}
    plain = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    settings = {"lr": 0.01, "weight_decay": 0.1}
    step(model, MuonAdamW(model.parameters(), **settings))
    step(plain, torch.optim.AdamW(plain.parameters(), **settings))
    for name, p in model.named_parameters():
        same = torch.equal(p, plain.get_parameter(name))
        assert same != (name in matrices), name
        if name in matrices:
            change = p.detach() - (1 - 0.01 * 0.1) * before[name]
            values = torch.linalg.svdvals(change.flatten(1)) / (0.01 * 0.2)
            assert values.max() < 1.3 * max(p.flatten(1).shape) ** 0.5


def test_resumes_exactly() -> None:
    model = network()
    optimizer = MuonAdamW(model.parameters(), lr=0.01)
    step(model, optimizer)
    other = copy.deepcopy(model)
    resumed = MuonAdamW(other.parameters(), lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(other, resumed)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_are_left_as_they_were() -> None:
    model = network()
    step(model, MuonAdamW(model.parameters()))
    assert all(p.grad is not None for p in model.parameters())
