"""The router's losses against their formulas."""

from __future__ import annotations

import pytest
import torch

from moce_kernels import RoutingPlan, routing_plan
from moceir.config import preset
from moceir.model import MoCEIR
from moceir.model.experts import ExpertBank
from moceir.model.routing import (
    BlockRouting,
    Router,
    auxiliary_loss,
    forced_expert,
    of_frequency,
    squared_variation,
    supervised,
)


def router(top_k: int = 1, use_complexity: bool = True, scale: str = "max") -> Router:
    complexity = torch.tensor([100.0, 200.0, 400.0, 1000.0])
    return Router(8, 16, complexity, top_k, use_complexity, scale, noise="never").train()


def loss_of(
    one: Router, logits: torch.Tensor, noisy: torch.Tensor, plan: RoutingPlan
) -> torch.Tensor:
    return auxiliary_loss([BlockRouting(plan, logits, noisy, one)])


@pytest.mark.parametrize(
    ("scale", "expected"), [("max", [0.1, 0.2, 0.4, 1.0]), ("min", [1.0, 2.0, 4.0, 10.0])]
)
def test_complexity_bias(scale: str, expected: list[float]) -> None:
    torch.testing.assert_close(router(scale=scale).complexity_bias, torch.tensor(expected))


def test_squared_variation_uses_the_unbiased_deviation() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    variance = ((x - 3) ** 2).sum() / 3
    torch.testing.assert_close(squared_variation(x), variance / 9)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_auxiliary_loss(top_k: int) -> None:
    """Eq. 5 to 7, with the load estimated by drawing fresh noise for one expert at a time."""
    one = router(top_k)
    generator = torch.Generator().manual_seed(0)
    logits = 0.3 * torch.randn(3, 4, generator=generator)
    noisy = logits + one.noise_std * torch.randn(3, 4, generator=generator)
    loss = loss_of(one, logits, noisy, routing_plan(noisy, top_k))

    importance = (one.complexity_bias * logits.softmax(1)).sum(0)
    threshold = noisy.sort(1, descending=True).values[:, top_k - 1, None]
    draws = logits + one.noise_std * torch.randn(200_000, 3, 4, generator=generator)
    load = (draws > threshold).float().mean(dim=(0, 1))
    expected = 0.5 * squared_variation(importance) + 0.5 * squared_variation(load)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("targets", [False, True])
def test_the_loss_of_blocks_is_the_mean_of_theirs(targets: bool) -> None:
    blocks = [router(scale=scale) for scale in ("max", "min", "max")]
    routings = []
    for one in blocks:
        logits = torch.randn(5, 4)
        noisy = logits + torch.randn(5, 4)
        routings.append(BlockRouting(routing_plan(noisy, 2), logits, noisy, one))
    if targets:
        for one in blocks:
            one.target = torch.tensor([0, 3, 1, 1, 2])
    each = [auxiliary_loss([routing]) for routing in routings]
    torch.testing.assert_close(auxiliary_loss(routings), torch.stack(each).mean())


def test_balance_ignores_complexity() -> None:
    """Uniform logits: importance is even without the bias, and uneven with it."""
    logits = torch.zeros(4, 4)
    plan = routing_plan(logits, 1)
    balanced = loss_of(router(use_complexity=False), logits, logits, plan)
    biased = loss_of(router(use_complexity=True), logits, logits, plan)
    assert balanced.item() == pytest.approx(0, abs=1e-6)
    assert biased.item() > 0.1


@pytest.mark.parametrize("use_complexity", [True, False])
def test_where_the_loss_settles(use_complexity: bool) -> None:
    """With the bias the cheaper expert is the likelier; without it all are equally likely."""
    one = router(use_complexity=use_complexity)
    logits = (0.1 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss_of(one, logits, logits, routing_plan(logits, 1)).backward()
        optimizer.step()
    usage = logits.detach().softmax(1).mean(0)
    if use_complexity:
        assert usage[0] > usage[1] > usage[2] > usage[3]
        assert usage[0] > 2 * usage[3]
    else:
        torch.testing.assert_close(usage, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_no_loss_in_evaluation() -> None:
    one = router().eval()
    routing = one(torch.rand(2, 8, 4, 4), torch.rand(2, 4))
    assert auxiliary_loss([routing]).item() == 0


def test_the_frequency_embedding_as_each_router_sees_it() -> None:
    torch.manual_seed(0)
    each, embedding = [router(), router()], torch.rand(3, 16, dtype=torch.bfloat16)
    for one, found in zip(each, of_frequency(each, embedding), strict=True):
        torch.testing.assert_close(found, one.from_frequency(embedding.float()))


def test_bank_counts_each_expert() -> None:
    config = preset("moce_ir_s")
    bank = ExpertBank(32, config.ranks(0), config.windows)
    counts = bank.complexity()
    assert sum(counts.tolist()) == sum(p.numel() for p in bank.parameters())
    assert counts.tolist() == sorted(counts.tolist())
    # Rank r on C channels: three C x r, query r x r with 3x3 and bias, key and value 2r x r with
    # 7x7 and bias, norm, projection r x r with bias.
    r, dim = config.ranks(0)[0], 32
    expected = 3 * dim * r + r * r + 10 * r + 2 * r * r + 100 * r + 2 * r + r * r + r
    assert counts[0].item() == expected


def test_a_supervised_router_has_the_cross_entropy() -> None:
    one = router()
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    plan = routing_plan(logits, 1)
    before = loss_of(one, logits, logits, plan)
    with supervised(torch.nn.Sequential(one), torch.tensor([0, 3, 1])):
        loss = loss_of(one, logits, logits, plan)
    expected = -logits.log_softmax(1)[[0, 1, 2], [0, 3, 1]].mean()
    torch.testing.assert_close(loss, expected)
    assert loss_of(one, logits, logits, plan) == before != expected
    assert loss_of(one.eval(), logits, logits, plan) == 0


def test_a_forced_expert_has_the_gate_of_the_first_choice() -> None:
    one = router().eval()
    x, frequency = torch.rand(5, 8, 4, 4), torch.rand(5, 4)
    free = one(x, frequency).plan
    for expert in range(4):
        with forced_expert(torch.nn.Sequential(one), expert):
            plan = one(x, frequency).plan
        assert plan.expert.eq(expert).all()
        torch.testing.assert_close(plan.gate, free.gate)
    assert one(x, frequency).plan.expert.equal(free.expert)


def test_a_network_goes_where_it_is_forced() -> None:
    torch.manual_seed(0)
    model = MoCEIR(preset("compact")).eval()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad(), forced_expert(model, 2):
        restored, routing = model(image, return_routing=True)
    assert routing.expert.eq(2).all()
    assert not restored.equal(model(image))
