"""The copy of a network that is made for inference on a GPU. Here it runs on the CPU."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from moceir.model import MoCEIR
from moceir.model.folded import Folded, folded
from moceir.model.routing import forced_expert
from tests.published_weights import TINY


def network(**changes: object) -> MoCEIR:
    """With norms that are not the identity."""
    model = MoCEIR(TINY.replace(**changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def images() -> torch.Tensor:
    return torch.rand(2, 3, 40, 24)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """But for the rounding of float32 in some ten layers."""
    return bool((a - b).norm() <= 1e-5 * b.norm())


@pytest.mark.parametrize("expert_path", [False, True])
@pytest.mark.parametrize("backend", ["reference", None])
def test_it_restores_what_the_network_does(
    monkeypatch: pytest.MonkeyPatch, backend: str | None, expert_path: bool
) -> None:
    if backend is not None:
        monkeypatch.setenv("MOCE_KERNELS_BACKEND", backend)
    model = network(expert_path=expert_path)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x = images()
    with torch.inference_mode():
        found, routing = folded(model, torch.float32)(x, return_routing=True)
        expected, of_model = model(x, return_routing=True)
    assert near(found, expected)
    assert torch.equal(routing.expert, of_model.expert)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_autocast_around_it_changes_nothing() -> None:
    model = network()
    expected = folded(model, torch.float32).state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        found = folded(model, torch.float32).state_dict()
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_as_near_to_the_truth_in_16_bits(dtype: torch.dtype) -> None:
    model = network()
    x = images()
    with torch.inference_mode():
        exact = model(x)
        with torch.autocast("cpu", dtype):
            errors = [(m(x).float() - exact).norm() for m in (folded(model, dtype), model)]
    assert errors[0] <= 1.5 * errors[1]


def test_only_activations_are_converted_in_16_bits() -> None:
    """Weights have their dtype already. Depthwise and attention matrices stay in float32."""
    ready = folded(network(), torch.bfloat16)
    for name, p in ready.named_parameters():
        own = "depthwise" in name and "frequency" not in name
        own |= "experts" in name or "temperature" in name or name.endswith("bias")
        own |= "attention.project_out" in name or "shared_expert.project_out" in name
        frequency = name.startswith("frequency_embedding")
        assert p.dtype == (torch.float32 if own and not frequency else torch.bfloat16), name
    assert not any(name.endswith(("norm.weight", "norm.bias")) for name in ready.state_dict())


def in_place(model: MoCEIR) -> None:
    with torch.no_grad():
        model.bottleneck[0].feedforward.project_in.weight.mul_(1.5)


def loaded(model: MoCEIR) -> None:
    model.load_state_dict(network().state_dict())


def assigned(model: MoCEIR) -> None:
    model.load_state_dict(network().state_dict(), assign=True)


def replaced(model: MoCEIR) -> None:
    norm = model.refinement[0].attention.norm
    norm.weight = nn.Parameter(norm.weight.detach() * 2)


def given_data(model: MoCEIR) -> None:
    p = model.stem.weight
    p.data = p.data * 2


def stepped(model: MoCEIR) -> None:
    model.train()
    model(images()).square().sum().backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    model.eval()


def averaged(model: MoCEIR) -> None:
    average = copy.deepcopy(model)
    with torch.no_grad():
        for p, q in zip(model.parameters(), average.parameters(), strict=True):
            q.add_(0.1)
            p.copy_(q)


@pytest.mark.parametrize(
    "change", [in_place, loaded, assigned, replaced, given_data, stepped, averaged]
)
def test_it_follows_the_weights_where_it_is(change: Callable[[MoCEIR], None]) -> None:
    """A captured graph reads the same memory, and so must see the new weights there."""
    model = network()
    ready = Folded(model, torch.float32)
    places = {name: t.data_ptr() for name, t in ready.network.state_dict().items()}
    x = images()
    with torch.inference_mode():
        before = ready.network(x)
    change(model)
    with torch.inference_mode():  # as the Restorer does
        moved = ready.refresh()
        found = ready.network(x)
        assert near(found, model(x)) and not near(found, before)
    now = {name: t.data_ptr() for name, t in ready.network.state_dict().items()}
    assert moved == (now != places) == (change is assigned)


def test_a_place_is_not_taken_before_it_is_noticed() -> None:
    """Weights that are replaced twice could come to where they were, and look unchanged."""
    model = network()
    memory = model.stem.weight.detach().numpy().copy()
    model.stem.weight.data = torch.from_numpy(memory)
    ready, place = Folded(model, torch.float32), weakref.ref(memory)
    del memory
    model.stem.weight.data = model.stem.weight.data * 2
    assert place() is not None
    ready.refresh()
    assert place() is None


def test_nothing_is_done_where_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    ready = Folded(model, torch.float32)
    monkeypatch.setattr("moceir.model.folded.folded", None)
    with torch.inference_mode():
        ready.network(images())
        model(images())
        ready.refresh()


def test_routers_are_the_networks_own() -> None:
    """What forces experts or changes an expert's weights reaches the copy at once."""
    model = network()
    ready = folded(model, torch.float32)
    with torch.inference_mode(), forced_expert(model, 3):
        _, routing = ready(images(), return_routing=True)
    assert routing.expert.eq(3).all()
