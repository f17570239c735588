"""What of the network's way on a GPU can be seen without one: which weights it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moceir.inference import graphs
from moceir.inference.network import Network
from moceir.model import MoCEIR
from moceir.model.experts import ExpertBank
from moceir.model.folded import Folded
from moceir.model.routing import forced_expert
from tests.published_weights import TINY


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A graph reads what it read when it was captured: here, the network of that time."""
    sides: list[int] = []

    def capture(function: graphs.Function, images: Tensor, pool: Any) -> graphs.Function:
        sides.append(images.shape[-1])
        return function

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    return sides


def on_gpu(model: MoCEIR) -> Network:
    network = Network(model, torch.device("cpu"), "float32")
    network._folded = Folded(model, torch.float32)
    return network


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-5 * b.norm())


def test_graphs_read_weights_that_follow(captured: list[int]) -> None:
    model = MoCEIR(TINY).eval()
    network = on_gpu(model)
    images = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        for _ in range(3):
            assert near(network(images, "float32")[0], model(images))
        model.output.weight.mul_(2)
        assert near(network(images, "float32")[0], model(images))
        assert captured == [24]  # the same graph, with other numbers in its memory
        model.load_state_dict(MoCEIR(TINY).state_dict(), assign=True)
        for _ in range(2):
            assert near(network(images, "float32")[0], model(images))
        assert captured == [24, 24]  # weights have moved: the graph was given up


def test_graphs_follow_settings(captured: list[int]) -> None:
    model = MoCEIR(TINY).eval()
    network = on_gpu(model)
    images = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        for _ in range(2):
            network(images, "float32")
        for expert in range(2):
            with forced_expert(model, expert):
                for _ in range(2):
                    assert (network(images, "float32")[1] == expert + 1).all()
        assert captured == [24] * 3
        assert near(network(images, "float32")[0], model(images))
    for module in model.modules():
        if isinstance(module, ExpertBank):
            module.every = True
    assert network._folded is not None and network._folded.refresh()


def test_graphs_follow_modules_that_are_replaced(captured: list[int]) -> None:
    model, other = MoCEIR(TINY).eval(), MoCEIR(TINY).eval()
    network = on_gpu(model)
    images = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        for _ in range(2):
            network(images, "float32")
        model.refinement[0] = other.refinement[0]
        for _ in range(2):
            assert near(network(images, "float32")[0], model(images))
        other.refinement[0].feedforward.project_out.weight.mul_(2)
        assert near(network(images, "float32")[0], model(images))
    assert captured == [24, 24]


def test_other_precisions_are_not_replayed(captured: list[int]) -> None:
    network = on_gpu(MoCEIR(TINY).eval())
    images = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        for _ in range(3):
            network(images, "bfloat16")
            network(images, "float32", replay=False)
    assert not captured


def test_a_cpu_needs_no_copy() -> None:
    model = MoCEIR(TINY).eval()
    images = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        restored, experts = Network(model, torch.device("cpu"), "float32")(images, "float32")
        expected, routing = model(images, return_routing=True)
    assert torch.equal(restored, expected)
    assert torch.equal(experts, routing.expert[:, :, 0].T + 1)
