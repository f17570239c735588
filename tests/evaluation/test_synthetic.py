"""The numbers of a model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from moceir.evaluation.synthetic import evaluate, main, quality
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR, save_weights
from tests.published_weights import TINY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "clean").mkdir()
    for i in range(2):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 32)).save(tmp_path / "clean" / f"{i}.png")
    return tmp_path / "clean"


def test_quality_follows_its_definition() -> None:
    clean = np.random.default_rng(0).integers(0, 200, (32, 40, 3), dtype=np.uint8)
    brighter = clean + 10
    psnr, ssim = quality(Image.fromarray(brighter), Image.fromarray(clean))
    assert psnr == pytest.approx(20 * np.log10(255 / 10))
    assert 0.9 < ssim < 1
    assert quality(Image.fromarray(brighter), Image.fromarray(brighter))[1] == pytest.approx(1)


def identity() -> MoCEIR:
    """A network that returns its input: its last convolution is zero."""
    model = MoCEIR(TINY)
    torch.nn.init.zeros_(model.output.weight)
    return model


def test_an_identity_gains_nothing(folder: Path) -> None:
    row = evaluate(Restorer(identity(), device="cpu"), sorted(folder.iterdir()), "noise")
    assert row["psnr"] == row["psnr_input"] == pytest.approx(20.3, abs=0.6)
    assert row["ssim"] == row["ssim_input"]


def test_the_command_writes_json(folder: Path, tmp_path: Path) -> None:
    save_weights(identity(), tmp_path / "m.safetensors")
    output = tmp_path / "out.json"
    words = [str(folder), "-m", str(tmp_path / "m.safetensors"), "-d", "haze", "-o", str(output)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "| `haze` |" in result.output
    content = json.loads(output.read_text())
    assert content["pictures"] == 2
    assert content["rows"][0]["degradation"] == "haze"
