"""The numbers of a model card."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from moceir.evaluation import methods
from moceir.evaluation.methods import Method, network
from moceir.evaluation.peers import Peer
from moceir.evaluation.rows import parse_row
from moceir.evaluation.synthetic import comparison, evaluate, main, middle, quality
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
    method = network(Restorer(identity(), device="cpu"))
    (row,) = evaluate([method], sorted(folder.iterdir()), parse_row("noise"))
    assert row["psnr"] == row["psnr_input"] == pytest.approx(20.3, abs=0.6)
    assert row["ssim"] == row["ssim_input"]
    assert row["gain"] == row["worst_gain"] == 0


def brighter(name: str, kinds: tuple[str, ...], by: float, knows_sigma: bool = False) -> Method:
    """A method that adds ``by`` to every value."""

    def restore(image: Tensor, sigma: float | None, tile: int | None) -> methods.Result:
        assert not knows_sigma or sigma == 25
        return methods.Result((image + by).clamp(0, 1), 0, ())

    peer = Peer(kinds, lambda image, _: image, {}, knows_sigma=knows_sigma)
    return Method(name, restore, torch.device("cpu"), {}, peer)


def test_the_worst_picture_is_named(tmp_path: Path) -> None:
    for name, level in (("dark", 100), ("bright", 250)):
        Image.new("RGB", (20, 20), (level,) * 3).save(tmp_path / f"{name}.png")
    pictures = sorted(tmp_path.iterdir())
    (row,) = evaluate([brighter("b", ("noise",), 20 / 255)], pictures, parse_row("clean"))
    # 250 can become 255 alone: the other has the greater error, 20.
    assert row["worst_picture"] == "dark"
    assert row["worst_psnr"] == pytest.approx(20 * np.log10(255 / 20))
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / (20 * 5)))
    assert row["gain"] == row["worst_gain"] == -np.inf
    assert row["source"] == "none"


def test_methods_are_measured_where_they_are_meant_for(folder: Path) -> None:
    pictures = sorted(folder.iterdir())
    several = [
        network(Restorer(identity(), device="cpu"), "net"),
        brighter("noise", ("noise",), 0),
        brighter("told", ("noise",), 0, knows_sigma=True),
        brighter("air", ("haze",), 0.1),
    ]
    found = {
        text: [row["method"] for row in evaluate(several, pictures, parse_row(text))]
        for text in ("noise", "noise@slight", "haze", "haze,noise", "clean")
    }
    assert found == {
        "noise": ["net", "noise", "told"],
        "noise@slight": ["net", "noise"],
        "haze": ["net", "air"],
        "haze,noise": ["net"],
        "clean": ["net", "noise", "air"],
    }


def test_methods_stand_side_by_side() -> None:
    def row(method: str, degradation: str, gain: float, **more: float) -> dict[str, Any]:
        psnr = {"psnr_input": 20.0, "psnr": 20 + gain, "worst_gain": gain - 1, **more}
        return {"method": method, "degradation": degradation, "gain": gain, **psnr}

    equal = {"psnr_input": np.inf, "psnr": 40.0, "worst_gain": -np.inf, "worst_psnr": 30.0}
    rows = [row("a", "noise", 2.5), row("b", "noise", -1), row("a", "clean", -np.inf, **equal)]
    assert comparison(rows).splitlines()[2:] == [
        "| `noise` | 20.00 | +2.50 (+1.50) | -1.00 (-2.00) |",
        "| `clean` | inf | 40.00 (30.00) |  |",
    ]


def test_the_middle_of_a_picture() -> None:
    pixels = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(middle(image, 4)), pixels[1:5, 2:6])
    assert np.array_equal(np.asarray(middle(image, 8)), pixels[:, :8])
    assert middle(image, None) is image


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_writes_json(folder: Path, tmp_path: Path) -> None:
    save_weights(identity(), tmp_path / "m.safetensors")
    output = tmp_path / "out.json"
    result = run(folder, "-m", tmp_path / "m.safetensors", "-d", "haze", "-o", output)
    assert result.exit_code == 0, result.output
    assert "| `haze` |" in result.stdout and "worst gain" in result.stdout
    content = json.loads(output.read_text())
    assert content["pictures"] == 2 and content["side"] is None
    (row,) = content["rows"]
    assert row["degradation"] == "haze" and row["gain"] == 0


def test_the_command_compares_methods(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    words = ["-m", "peer:gamma", "-m", "peer:dark_channel", "-d", "haze", "-d", "clean"]
    result = run(folder, *words, "--side", 16, "-o", output)
    assert result.exit_code == 0, result.output
    caption, _, head, _, haze, clean = result.stdout.splitlines()
    assert caption.startswith("2 images, the centre 16 x 16 pixels, RGB, rounded to 8 bits")
    assert head.endswith("| `peer:dark_channel` | `peer:gamma` |")
    assert haze.startswith("| `haze` |") and haze.endswith(") |  |")
    assert clean.startswith("| `clean` | inf |")
    content = json.loads(output.read_text())
    assert content["side"] == 16 and list(content["methods"]) == ["peer:gamma", "peer:dark_channel"]
    assert [row["psnr_input"] for row in content["rows"][1:]] == [None, None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-d", "fog"], "Error: unknown degradation 'fog'"),
        (["-m", "peer:fog"], "Error: unknown peer 'fog'"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = run(folder, *words, "-o", tmp_path / "out.json")
    assert result.exit_code == 1 and message in result.output
    assert not (tmp_path / "out.json").exists()


def test_a_result_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up; what can be known before is said before (``tests/test_programs.py``)."""
    output = tmp_path / "new" / "out.json"

    def full(*given: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("moceir.files._sync", full)
    result = run(folder, "-m", "peer:gamma", "-d", "haze", "-o", output)
    assert result.exit_code == 1
    assert result.output.endswith(f"Error: {output}: No space left on device\n")
    assert list(output.parent.iterdir()) == []
