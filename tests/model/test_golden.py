"""The network against the published implementation's numbers."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from moceir.model import load_published
from moceir.model.load import to_published
from moceir.training.loss import restoration_loss
from tests.published_weights import CONFIGS, GOLDEN, TINY, filled, golden, shapes


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_parameter_count(name: str) -> None:
    model = load_published(filled(shapes(name)), CONFIGS[name])
    counts = {"tiny": 927_008, "small": 11_477_752, "base": 25_353_796}
    assert sum(p.numel() for p in model.parameters()) == counts[name]


@pytest.mark.parametrize(
    ("file", "name", "top_k"),
    [
        ("tiny_eval.npz", "tiny", 1),
        ("tiny_top2_eval.npz", "tiny", 2),
        ("small_eval.npz", "small", 1),
        ("base_eval.npz", "base", 1),
    ],
)
def test_evaluation(file: str, name: str, top_k: int) -> None:
    expected = golden(file)
    model = load_published(filled(shapes(name)), CONFIGS[name].replace(top_k=top_k)).eval()
    with torch.no_grad():
        y, routing = model(expected["x"], return_routing=True)
    assert (y - expected["y"]).abs().max() <= 1e-4 * expected["y"].abs().max()
    assert torch.equal(routing.expert, expected["route_index"])
    torch.testing.assert_close(routing.gate, expected["route_gate"], rtol=0, atol=1e-5)


def test_training() -> None:
    expected = golden("tiny_train.npz")
    config = dataclasses.replace(TINY, freeze_high_pass=False)
    model = load_published(filled(shapes("tiny")), config).train()

    y, routing = model(expected["x"], return_routing=True)
    loss = restoration_loss(y, expected["target"], routing.aux_loss, spectrum_weight=0)
    loss.backward()

    assert (y - expected["y"]).abs().max() <= 1e-4 * expected["y"].abs().max()
    torch.testing.assert_close(routing.aux_loss.double(), expected["aux_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.double(), expected["loss"], rtol=1e-5, atol=0)

    # The gradients take the way of the weights: into the published code's names and shapes.
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    gradients = to_published(model)
    norms = json.loads((GOLDEN / "tiny_train_grad_norms.json").read_text())
    for name, norm in norms.items():
        assert gradients[name].double().norm().item() == pytest.approx(norm, rel=1e-3), name
