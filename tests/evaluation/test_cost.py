"""The accounting of multiply-accumulates against the weights of networks and against fvcore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import moceir
from moceir import machine
from moceir.commands.main import main
from moceir.config import MoCEIRConfig, preset
from moceir.errors import ConfigError
from moceir.evaluation.cost import cost, extras
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.model.experts import ExpertBank
from tests.evaluation.trees import picture

SMALL = MoCEIRConfig(
    dim=16, num_blocks=(1, 2, 1), num_dec_blocks=(2, 1), num_refinement_blocks=1, heads=(1, 2, 4),
    routing_noise="never",
)  # fmt: skip


def counted(model: MoCEIR, height: int, width: int, route: list[int]) -> int:
    """Every weight that acts on pixels is used once at each pixel of its level: from the weights
    of the network, not from its configuration."""
    levels = len(model.config.dims)
    total = 0

    def pixels(level: int) -> int:
        return (height >> level) * (width >> level)

    experts = iter(route)
    for name, module in model.named_modules():
        part, _, rest = name.partition(".")
        if part in ("encoder", "decoder") and not rest:
            continue
        if part == "encoder":
            level = int(rest.split(".")[0])
        elif part == "decoder":
            level = levels - 2 - int(rest.split(".")[0])
        else:
            level = levels - 1 if part in ("bottleneck", "frequency_embedding") else 0
        if isinstance(module, nn.Conv2d):
            total += module.weight.numel() * pixels(level + name.endswith(".upsample"))
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()
        elif hasattr(module, "temperature"):
            dim, heads = module.project_out.out_channels, len(module.temperature)
            total += 2 * heads * (dim // heads) ** 2 * pixels(level)
        elif isinstance(module, ExpertBank):
            weights = module.weights().split(module.ranks)[next(experts)]
            for role, tensor in zip(weights._fields, weights, strict=True):
                if not role.endswith("bias") and role != "norm":
                    total += tensor.numel() * pixels(level)
    return total


@pytest.mark.parametrize("route", [[0, 0, 0], [3, 1, 2], [3, 3, 3]])
def test_every_weight_is_used_once_at_each_pixel(route: list[int]) -> None:
    account = cost(SMALL, 33, 50)  # padded to 36 x 52
    total = counted(MoCEIR(SMALL), 36, 52, route)
    assert account.route([[expert] for expert in route]) == total
    assert account.cheapest <= total <= account.most_expensive


@pytest.mark.parametrize(
    ("name", "cheapest", "most_expensive", "paper"),
    [("moce_ir_s", 32.46, 36.59, 36.9), ("moce_ir", 70.85, 79.56, 80.6)],
)
def test_the_papers_numbers(
    name: str, cheapest: float, most_expensive: float, paper: float
) -> None:
    """They are above any route of the networks that were trained, and between the cheapest and the
    most expensive of what the published code counts: the same with one attention head a level."""
    account = cost(preset(name), 224, 224)
    assert account.cheapest / 1e9 == pytest.approx(cheapest, abs=0.005)
    assert account.most_expensive / 1e9 == pytest.approx(most_expensive, abs=0.005)
    one_head = cost(preset(name).replace(heads=(1, 1, 1, 1)), 224, 224)
    assert one_head.cheapest / 1e9 < paper < one_head.most_expensive / 1e9


def test_fvcore_counts_the_same_in_the_published_code() -> None:
    """What its main program, on a CPU with seed 0, says for dim 32, without pooling (8,028,160)."""
    route = [[3], [0], [0], [1], [1], [0], [0], [1], [0], [2]]
    account = cost(preset("moce_ir_s").replace(heads=(1, 1, 1, 1)), 224, 224)
    assert account.route(route) == 35_648_115_968 - 8_028_160


def test_norms_and_transforms_are_little() -> None:
    for name in ("moce_ir_s", "moce_ir"):
        account, more = cost(preset(name), 224, 224), extras(preset(name), 224, 224)
        assert (
            0.006
            < more.cheapest / account.cheapest
            < more.most_expensive / account.most_expensive
            < 0.02
        )


def test_counts_of_many_images_add_up() -> None:
    account = cost(SMALL, 32, 32)
    routes = [[[0], [3], [1]], [[2], [2], [2]], [[3], [0], [1]]]
    counts = torch.zeros(3, 4, dtype=torch.int64)
    for route in routes:
        for block, (expert,) in enumerate(route):
            counts[block, expert] += 1
    assert account.of_counts(counts) == sum(account.route(route) for route in routes)


def test_what_a_network_costs(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 33, 50)
    restorer = Restorer(MoCEIR(SMALL), device="cpu", threads=1)
    found = moceir.measure_cost(restorer, 64, 48, pictures=[str(path)], runs=1)
    assert found.parameters == sum(p.numel() for p in restorer.model.parameters())
    assert found.macs == cost(SMALL, 48, 64) and found.extras == extras(SMALL, 48, 64)
    assert found.seconds and found.seconds > 0 and found.threads == 1 and found.device == "cpu"
    (one,) = found.pictures
    assert (one.picture, one.width, one.height) == (str(path), 33, 50)
    assert one.macs == cost(SMALL, 50, 33).route([[expert - 1] for expert in one.experts])
    assert moceir.measure_cost(restorer, 8, 8, runs=0).seconds is None
    with pytest.raises(ConfigError, match="size 0 x 8: give at least 1 x 1"):
        moceir.measure_cost(restorer, 0, 8)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["cost", *(str(word) for word in words)])


def test_the_command(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 40, 36)
    result = run(path, "--size", "64x48", "--runs", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["seconds"] > 0 and (found["width"], found["height"]) == (64, 48)
    (one,) = found["pictures"]
    assert one["cheapest"] <= one["macs"] <= one["most_expensive"] and len(one["experts"]) == 3
    words = run("--preset", "moce_ir_s", "--runs", "0").output
    assert "parameters: 11,477,752" in words and "36.59 G by the most expensive" in words


def test_too_little_memory_has_a_remedy_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles are none: neither the command nor the function has them."""
    monkeypatch.setattr(machine, "available_bytes", lambda device: 10**6)
    path = picture(tmp_path / "a.png", 1000, 600)
    for words, remedy in (
        ([path, "--runs", 0], "so give a smaller one, or choose another device (--device)"),
        (["--size", "1000x600"], "give a smaller size, or choose another device (--size)"),
    ):
        result = run("-m", "compact", *words)
        assert result.exit_code == 1 and "1000 x 600 as a whole needs about" in result.output
        assert result.output.endswith(f"{remedy}\n") and "tiles" not in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "224"], "--size 224: give width x height"),
        (["--size", "0x5"], "size 0 x 5: give at least 1 x 1 (--size)"),
        (["--preset", "moce"], "unknown preset"),
        (["--preset", "moce_ir", "-m", "compact"], "choose one"),
        (["none.png"], "none.png"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 1 and message in result.output
