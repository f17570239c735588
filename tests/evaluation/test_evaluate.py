"""``moceir evaluate`` from the command to its files."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import moceir
from moceir.commands.main import main
from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError
from moceir.evaluation.methods import network
from moceir.evaluation.paper import SETTINGS
from moceir.evaluation.protocol import PROTOCOLS, benchmarks
from moceir.evaluation.run import Measurement, measure
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR, save_weights
from tests.evaluation.trees import picture, published

TINY = MoCEIRConfig(
    dim=8, num_blocks=(1, 1), num_dec_blocks=(1,), num_refinement_blocks=0, heads=(1, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("published"))


def identity() -> MoCEIR:
    """A network that returns its input: its last convolution is zero."""
    model = MoCEIR(TINY)
    torch.nn.init.zeros_(model.output.weight)
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    save_weights(identity(), path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *(str(word) for word in words)])


def test_an_identity_gains_nothing(root: Path) -> None:
    restorer = Restorer(identity(), device="cpu")
    for benchmark in benchmarks(["rain100l", "cbsd68-25"], root):
        for protocol in PROTOCOLS.values():
            for row, degraded, restored, _ in measure(network(restorer), benchmark, protocol):
                assert torch.equal(degraded, restored)
                assert row.psnr == row.psnr_input
                assert row.ssim == row.ssim_input
                assert len(row.experts) == 1 and 1 <= row.experts[0] <= 4


def test_restored_values_are_clamped_and_not_rounded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(identity(), device="cpu")
    (benchmark,) = benchmarks(["rain100l"], root)
    for shift in (0.3 / 255, 2.0):
        monkeypatch.setattr(restorer, "_network", lambda x, _, by=shift: (x + by, [(1,)]))
        for _, degraded, restored, _ in measure(
            network(restorer), benchmark, PROTOCOLS["published"]
        ):
            expected = (degraded + shift).clamp(0, 1)
            torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)


def test_from_python(root: Path, tmp_path: Path) -> None:
    """What is measured, reported and kept; and that results are not lost."""
    restorer = Restorer(identity(), device="cpu")
    seen: list[str] = []

    def report(row: Measurement, degraded: torch.Tensor, restored: torch.Tensor) -> None:
        assert torch.equal(degraded, restored)
        seen.append(row.picture)

    found = moceir.evaluate(
        restorer,
        moceir.benchmarks(["rain100l", "cbsd68-25"], str(root)),
        "promptir",
        pictures=tmp_path / "pictures",
        report=report,
    )
    assert seen == [row.picture for row in found.rows] and len(seen) == 4
    rain = found.summaries()["rain100l"]
    assert rain["pictures"] == 2 and rain["psnr"] == rain["psnr_input"]
    assert found.about["protocol"] == "promptir" and found.about["device"].startswith("cpu")
    assert (tmp_path / "pictures/rain100l/1.png").is_file()
    moceir.write_results(found, tmp_path / "out")
    assert json.loads((tmp_path / "out/results.json").read_text())["benchmarks"]["rain100l"] == rain
    with pytest.raises(FileExistsError, match=r"results\.json"):
        moceir.write_results(found, tmp_path / "out")
    moceir.write_results(found, tmp_path / "out", overwrite=True)
    with pytest.raises(ConfigError, match="unknown protocol 'ours': choose published, promptir"):
        moceir.evaluate(restorer, [], "ours")
    with pytest.raises(ConfigError, match="there are no benchmarks"):
        moceir.evaluate(restorer, [])


def test_images_of_one_name_in_two_folders_are_two_results(tmp_path: Path) -> None:
    for sequence in ("A", "B"):
        for part in ("blur", "sharp"):
            picture(tmp_path / f"deblurring/GoPro/test/{sequence}/{part}/000001.png")
    restorer = Restorer(identity(), device="cpu")
    found = moceir.evaluate(
        restorer, moceir.benchmarks(["gopro"], tmp_path), pictures=tmp_path / "out"
    )
    names = ["A/blur/000001.png", "B/blur/000001.png"]
    assert [row.picture for row in found.rows] == names
    assert all((tmp_path / "out/gopro" / name).is_file() for name in names)


def test_the_command_writes_its_files(root: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    aio5 = ",".join(SETTINGS["aio5"].columns)
    pair = [root / "llie/LOLv1/Test/input", root / "llie/LOLv1/Test/target"]
    words = ["-m", weights, "--benchmarks", aio5, "--data", root, "--pair", *pair, "-o", out]
    result = run(*words, "--save-pictures")
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir()}
    assert names == {"pictures.csv", "results.json", "results.md", "report.html", "pictures"}
    rows = list(csv.DictReader((out / "pictures.csv").open()))
    assert [row["benchmark"] for row in rows[:4]] == ["sots", "rain100l", "rain100l", "cbsd68-25"]
    assert all(math.isfinite(float(row["psnr"])) for row in rows if row["benchmark"] != "sots")
    content = json.loads((out / "results.json").read_text())
    assert content["protocol"] == "published" and "not measured" in content["lpips"]
    mean = (float(rows[1]["psnr"]) + float(rows[2]["psnr"])) / 2
    assert content["benchmarks"]["rain100l"]["psnr"] == pytest.approx(mean, abs=1e-5)
    markdown = (out / "results.md").read_text()
    # None of these small sets is complete: no published row stands beside ours.
    assert "MoCE-IR-S" not in markdown
    ours = markdown.partition("## AIO-5")[2].partition("| this network | ")[2].splitlines()[0]
    parameters, *cells = ours.rstrip(" |").split(" | ")
    assert parameters == f"{sum(p.numel() for p in identity().parameters()) / 1e6:.3g}M"
    counts = [cell.partition("(")[2] for cell in cells]
    assert counts == [f"{n})" for n in ("1 of 500 images", "2 of 100 images", "2 of 68 images",
                                        "1 of 1111 images", "1 of 15 images")]  # fmt: skip
    assert "- CBSD68 25: 2 of 68 images. Published numbers are means over the whole" in markdown
    # Two columns of AIO-3 were not measured.
    assert "- Not measured: CBSD68 15, CBSD68 50." in markdown
    assert "NIQE, BRISQUE, MUSIQ: not measured, pyiqa is not installed." in markdown
    page = (out / "report.html").read_text()
    assert page.count('class="slider"') == 8  # one for each picture of six benchmarks
    assert "http" not in page.replace("http-equiv", "")
    assert (out / "pictures/rain100l/1.png").is_file()
    again = run(*words)
    assert again.exit_code == 1
    assert "results.json: already there: choose another name, or add --overwrite" in again.output
    assert run(*words, "--overwrite").exit_code == 0


def test_a_classical_method_is_measured_as_networks_are(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("-m", "peer:gamma", "--benchmarks", "lolv1", "--data", root, "-o", out)
    assert result.exit_code == 0, result.output
    content = json.loads((out / "results.json").read_text())
    assert content["model"] == "peer:gamma" and "network" not in content
    (row,) = csv.DictReader((out / "pictures.csv").open())
    assert row["experts"] == "" and row["psnr"] != row["psnr_input"]
    assert "| peer:gamma | none | " in (out / "results.md").read_text()
    page = (out / "report.html").read_text()
    assert "peer:gamma" in page and "experts" not in page


def test_a_full_disk_is_named(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    out = tmp_path / "out"
    result = run("-m", weights, "--benchmarks", "lolv1", "--data", root, "-o", out)
    assert result.exit_code == 1
    assert f"{out / 'report.html'}: No space left on device" in result.output
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name --benchmarks"),
        (["--benchmarks", "rain100l", "--data", "none"], "none: no such folder"),
        (["--pair", "pictures", "others", "-m", "peer:sharpen"], "unknown peer 'sharpen'"),
        (["--benchmarks", "rain100l", "--data", "empty"], "Rain100L not found in empty"),
        (["--benchmarks", "rain", "--data", "empty"], "unknown benchmark 'rain'"),
        (["--benchmarks", "cbsd68", "--data", "empty", "--sigmas", "x"], "--sigmas x"),
        (["--pair", "empty", "none"], "none: no such folder"),
        (["--pair", "empty", "empty"], "empty: no images in it"),
    ],
)
def test_mistakes_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in ("pictures", "others"):
        picture(tmp_path / folder / "1.png")
    result = run(*words, "-o", "out")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()
