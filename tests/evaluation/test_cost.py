"""The accounting of multiply-accumulates against a count of what really runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from moceir.cli import main
from moceir.config import MoCEIRConfig, preset
from moceir.evaluation.cost import cost, extras
from moceir.model import MoCEIR
from moceir.model.attention import channel_attention
from moceir.model.experts import ExpertBank
from tests.evaluation.trees import picture

SMALL = MoCEIRConfig(
    dim=16, num_blocks=(1, 2, 1), num_dec_blocks=(2, 1), num_refinement_blocks=1, heads=(1, 2, 4),
    stage_depth=(1, 1), routing_noise="never",
)  # fmt: skip


def counted(model: MoCEIR, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list]:
    """Multiply-accumulates by hooks on every layer, and the route taken."""
    total = 0

    def layer(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    def attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        nonlocal total
        _, c, h, w = q.shape
        total += 2 * h * w * c * c // temperature.shape[0]
        return channel_attention(q, k, v, temperature)

    def bank(module: ExpertBank, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        x, _, routing = inputs
        pixels = x.shape[2] * x.shape[3]
        weights = module.weights().split(module.ranks)[int(routing.plan.expert[0, 0])]
        # Every weight of an expert but its biases and its norm is used once at every pixel.
        for role, tensor in zip(weights._fields, weights, strict=True):
            if not role.endswith("bias") and role != "norm":
                total += pixels * tensor.numel()

    monkeypatch.setattr("moceir.model.attention.channel_attention", attention)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(layer)
        elif isinstance(module, ExpertBank):
            module.register_forward_hook(bank)
    with torch.inference_mode():
        _, routing = model(image, return_routing=True)
    return total, routing.expert[:, 0].tolist()


@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
def test_the_account_is_what_runs(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MoCEIR(SMALL).eval()
    total, route = counted(model, torch.rand(1, 3, *size), monkeypatch)
    account = cost(SMALL, *size)
    assert account.route(route) == total
    assert account.cheapest <= total <= account.dearest


@pytest.mark.parametrize(
    ("name", "cheapest", "dearest", "paper"),
    [("moce_ir_s", 32.46, 36.59, 36.9), ("moce_ir", 70.85, 79.56, 80.6)],
)
def test_the_papers_numbers(name: str, cheapest: float, dearest: float, paper: float) -> None:
    """They are above any route of the networks that were trained, and between the cheapest and the
    dearest of what the published code counts: the same with one attention head at each level."""
    account = cost(preset(name), 224, 224)
    assert account.cheapest / 1e9 == pytest.approx(cheapest, abs=0.005)
    assert account.dearest / 1e9 == pytest.approx(dearest, abs=0.005)
    one_head = cost(preset(name).replace(heads=(1, 1, 1, 1)), 224, 224)
    assert one_head.cheapest / 1e9 < paper < one_head.dearest / 1e9


def test_fvcore_counts_the_same_in_the_published_code() -> None:
    """What its main program, on a CPU with seed 0, says for dim 32, without pooling (8,028,160)."""
    route = [[3], [0], [0], [1], [1], [0], [0], [1], [0], [2]]
    account = cost(preset("moce_ir_s").replace(heads=(1, 1, 1, 1)), 224, 224)
    assert account.route(route) == 35_648_115_968 - 8_028_160


def test_norms_and_transforms_are_little() -> None:
    for name in ("moce_ir_s", "moce_ir"):
        account, more = cost(preset(name), 224, 224), extras(preset(name), 224, 224)
        assert 0.006 < more.cheapest / account.cheapest < more.dearest / account.dearest < 0.02


def test_counts_of_many_images_add_up() -> None:
    account = cost(SMALL, 32, 32)
    routes = [[[0], [3], [1]], [[2], [2], [2]], [[3], [0], [1]]]
    counts = torch.zeros(3, 4, dtype=torch.int64)
    for route in routes:
        for block, (expert,) in enumerate(route):
            counts[block, expert] += 1
    assert account.of_counts(counts) == sum(account.route(route) for route in routes)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["cost", *(str(word) for word in words)])


def test_the_command(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 40, 36)
    result = run(path, "--size", "64x48", "--runs", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["seconds"] > 0 and (found["width"], found["height"]) == (64, 48)
    (one,) = found["pictures"]
    assert one["cheapest"] <= one["macs"] <= one["dearest"] and len(one["experts"]) == 3
    words = run("--preset", "moce_ir_s", "--runs", "0").output
    assert "parameters: 11,477,752" in words and "36.59 G by the dearest" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "224"], "--size 224: give width x height"),
        (["--size", "0x5"], "--size 0x5"),
        (["--preset", "moce"], "unknown preset"),
        (["--preset", "moce_ir", "-m", "compact"], "choose one"),
        (["none.png"], "none.png"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 1 and message in result.output
