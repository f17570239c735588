"""What experts are worth, on networks of which it is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from moceir.config import preset
from moceir.evaluation.experts import ROUTED, WITHOUT, centre, gains, main, spread, without_experts
from moceir.model import MoCEIR, save_weights
from moceir.model.experts import ExpertBank


@pytest.fixture
def network() -> MoCEIR:
    torch.manual_seed(0)
    config = preset("compact").replace(
        dim=8, num_blocks=(1, 1), num_dec_blocks=(1,), heads=(1, 1), num_refinement_blocks=0,
        expert_path=True,
    )  # fmt: skip
    return MoCEIR(config).eval()


def banks(model: MoCEIR) -> list[ExpertBank]:
    return [module for module in model.modules() if isinstance(module, ExpertBank)]


def test_experts_that_return_what_they_are_given_have_no_spread(network: MoCEIR) -> None:
    with torch.no_grad():
        for bank in banks(network):
            bank.out_proj.zero_()
    row = gains(network, [torch.randint(0, 256, (1, 3, 32, 40)).byte()], "noise", "strong")
    assert set(row) == {ROUTED, *(f"expert_{i}" for i in (1, 2, 3, 4)), WITHOUT}
    assert spread(row) == pytest.approx(0, abs=1e-6)
    assert row[WITHOUT] == pytest.approx(row[ROUTED], abs=1e-6)


def test_experts_that_differ_have_one(network: MoCEIR) -> None:
    with torch.no_grad():
        for bank in banks(network):
            bank.out_proj.mul_(200)
    row = gains(network, [torch.randint(0, 256, (1, 3, 32, 40)).byte()], "noise", "strong")
    assert spread(row) > 0.01
    forced = [gain for way, gain in row.items() if way.startswith("expert_")]
    assert min(forced) <= row[ROUTED] <= max(forced)  # one block, one picture


def test_a_network_has_its_experts_back(network: MoCEIR) -> None:
    before = [bank.out_proj.clone() for bank in banks(network)]
    with pytest.raises(KeyError), without_experts(network):
        assert all(bank.out_proj.eq(0).all() for bank in banks(network))
        raise KeyError
    assert all(b.out_proj.equal(kept) for b, kept in zip(banks(network), before, strict=True))


def test_command(tmp_path: Path, network: MoCEIR) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert centre(tmp_path / "a.png", 20).shape == (1, 3, 20, 20)
    assert centre(tmp_path / "a.png", 20)[0, :, 0, 0].tolist() == pixels[5, 15].tolist()
    save_weights(network, tmp_path / "w.safetensors")
    words = [str(tmp_path), "-m", str(tmp_path / "w.safetensors"), "--kinds", "noise,haze"]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    assert "| haze |" in result.output
    assert set(json.loads((tmp_path / "r.json").read_text())["rows"]) == {"noise", "haze"}
    result = CliRunner().invoke(main, [*words[:-1], "fog", "-o", str(tmp_path / "r.json")])
    assert result.exit_code == 1 and "Error: kind 'fog': choose of noise, " in result.output
    assert result.output.endswith(" (--kinds)\n")
