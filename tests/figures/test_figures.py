"""The paper's figures, from the command to the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from moceir.commands.main import main
from moceir.errors import ConfigError
from moceir.evaluation.paper import SETTINGS
from moceir.evaluation.routes import count_routes
from moceir.figures.errors import error_map, examples
from moceir.figures.quality import common_columns, quality_figure, read_result
from moceir.figures.routes import routes_figure, usage_figure
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR, save_weights
from tests.evaluation.test_cost import SMALL
from tests.evaluation.trees import picture, published


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(MoCEIR(SMALL), path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def is_picture(path: Path) -> bool:
    if path.suffix == ".svg":
        return path.read_text().lstrip().startswith("<?xml")
    with Image.open(path) as image:
        return min(image.size) > 100


def test_routes_are_those_that_the_network_takes(weights: Path) -> None:
    restorer = Restorer(str(weights), device="cpu")
    images = torch.rand(5, 3, 32, 32)
    counts = count_routes(restorer, iter(images))
    with torch.inference_mode():
        _, routing = restorer.model(images, return_routing=True)
    for block, experts in enumerate(routing.expert[..., 0]):
        assert torch.equal(counts[block], torch.bincount(experts, minlength=4))
    panels = routes_figure({"noise": counts, "rain": counts}).axes
    assert [panel.get_title() for panel in panels[:2]] == ["noise (5)", "rain (5)"]
    shown = panels[0].images[0].get_array()
    assert torch.allclose(torch.from_numpy(shown.data), counts.T.double() / 5)


def test_the_routes_of_pictures_and_benchmarks(tmp_path: Path, weights: Path) -> None:
    picture(tmp_path / "clean/a.png", 40, 36)
    png, svg = tmp_path / "new/routes.png", tmp_path / "new/routes.svg"
    words = ["-m", weights, "-o", png, "-o", svg]
    result = run("routes", tmp_path / "clean", "--kinds", "noise,haze", *words)
    assert result.exit_code == 0, result.output
    assert is_picture(png) and is_picture(svg)
    assert [line.split(":")[0] for line in result.output.splitlines()] == ["noise", "haze"]
    first = svg.read_bytes()
    again = run("routes", tmp_path / "clean", "--kinds", "noise,haze", *words)
    assert again.exit_code == 1 and "already there" in again.output
    assert (
        run("routes", tmp_path / "clean", "--kinds", "noise,haze", *words, "--overwrite").exit_code
        == 0
    )
    assert svg.read_bytes() == first
    published(tmp_path / "sets")
    words = ["-m", weights, "-o", tmp_path / "sets.png"]
    result = run("routes", "--benchmarks", "rain100l,sots", "--data", tmp_path / "sets", *words)
    assert result.exit_code == 0, result.output


def test_the_usage_of_a_run_is_drawn(tmp_path: Path) -> None:
    lines = ["step,degradation,block,expert_1,expert_2"]
    lines += [f"{step},{label},1,{step},{4 - step}" for step in range(4) for label in "ab"]
    (tmp_path / "experts.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "usage.png"
    result = run("routes", "--training", "mine", tmp_path, "-o", out)
    assert result.exit_code == 0 and is_picture(out)
    from moceir.training.usage import read_usage

    (panel,) = usage_figure({"mine": read_usage(tmp_path / "experts.csv")}, bins=2).axes
    # Steps 0 and 1: 1 of 8; steps 2 and 3: 5 of 8.
    edge = panel.collections[0].get_paths()[0].vertices
    assert {round(y, 3) for y in edge[:, 1]} == {0, 0.125, 0.625}
    (tmp_path / "experts.csv").write_text("nothing\n")
    result = run("routes", "--training", "mine", tmp_path, "-o", tmp_path / "b.png")
    assert result.exit_code == 1 and "not an experts.csv" in result.output


def test_error_maps(tmp_path: Path, weights: Path) -> None:
    clean = torch.zeros(3, 4, 5)
    image = clean.clone()
    image[0, 1, 2] = 0.6
    expected = torch.zeros(4, 5)
    expected[1, 2] = 0.2
    torch.testing.assert_close(error_map(image, clean), expected)
    pair = [picture(tmp_path / "bad.png", seed=1), picture(tmp_path / "good.png", seed=2)]
    out = tmp_path / "errors.png"
    words = ["figures", "errors", "-m", weights, "-o", out]
    assert run(*words, "--pair", *pair).exit_code == 0
    assert is_picture(out)
    other = picture(tmp_path / "other.png", 36, 40)
    result = run(*words, "--pair", pair[0], other, "--overwrite")
    assert result.exit_code == 1 and "the two must have the same size" in result.output


def results(path: Path, **psnr: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "model": "mine",
        "parameters": 5_000_000,
        "network": SMALL.to_dict(),
        "benchmarks": {n: {"psnr": value, "incomplete": ""} for n, value in psnr.items()},
    }
    path.write_text(json.dumps(content))
    return path


def test_quality_against_cost(tmp_path: Path) -> None:
    path = results(tmp_path / "mine/results.json", sots=30.0, gopro=28.0)
    result = read_result(path)
    assert common_columns(SETTINGS["aio5"], [result]) == ["sots", "gopro"]
    by_size, by_compute = quality_figure([result], "aio5").axes
    points = {
        text.get_text(): text.xy
        for text in by_size.texts  # type: ignore[attr-defined]
    }
    assert points["mine"] == (5.0, 29.0)
    assert points["MoCE-IR"] == pytest.approx((25, (30.48 + 30.05) / 2))
    assert {text.get_text() for text in by_compute.texts} == {"mine", "MoCE-IR", "MoCE-IR-S"}
    out = tmp_path / "quality.svg"
    assert run("figures", "quality", path, "-o", out).exit_code == 0 and is_picture(out)
    content = json.loads(path.read_text())
    content["benchmarks"]["gopro"]["incomplete"] = "4 of 1111 images"
    (tmp_path / "part.json").write_text(json.dumps(content))
    part = read_result(tmp_path / "part.json")
    assert common_columns(SETTINGS["aio5"], [part]) == ["sots"]
    for summary in content["benchmarks"].values():
        del summary["incomplete"]  # as in files of older versions, which did not tell
    (tmp_path / "old.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match='without "incomplete" is of an older version'):
        common_columns(SETTINGS["aio5"], [read_result(tmp_path / "old.json")])
    with pytest.raises(ConfigError, match="share no benchmark of CDD11"):
        quality_figure([result], "cdd11")
    refused = run("figures", "quality", path, "-o", tmp_path / "b.svg", "--setting", "cdd11")
    assert refused.exit_code == 1
    assert refused.output.endswith("evaluate one, or choose another setting (--setting)\n")
    for content in (b"{}", b"\x89PNG"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.json: not a results\.json"):
            read_result(tmp_path / "bad.json")


def test_examples_are_restored(tmp_path: Path, weights: Path) -> None:
    bad, good = (picture(tmp_path / f"{name}.png") for name in ("bad", "good"))
    restorer = Restorer(str(weights), device="cpu")
    (example,) = examples([(bad, str(good))], restorer)
    assert example.name == "bad" and example.degraded.shape == example.clean.shape
    assert torch.equal(example.restored, restorer(example.degraded[None])[0])


def test_classical_methods_are_lines(tmp_path: Path) -> None:
    """They have neither parameters nor layers, and the network beside them is drawn as ever."""
    peer = tmp_path / "bm3d/results.json"
    peer.parent.mkdir()
    content = {"model": "peer:bm3d", "benchmarks": {"sots": {"psnr": 25.0, "incomplete": ""}}}
    peer.write_text(json.dumps(content))
    mine = results(tmp_path / "mine/results.json", sots=30.0, gopro=28.0)
    figure = quality_figure([read_result(path) for path in (peer, mine)], "aio5")
    for panel in figure.axes:
        (line,) = (line for line in panel.lines if line.get_linestyle() == "--")
        assert list(line.get_ydata()) == [25.0, 25.0]
        assert {"bm3d", "mine"} <= {text.get_text() for text in panel.texts}
    out = tmp_path / "quality.png"
    assert run("figures", "quality", peer, mine, "-o", out).exit_code == 0 and is_picture(out)


def test_tables_of_degraded_pictures_are_told_from_results(tmp_path: Path) -> None:
    table = Path(__file__).parents[2] / "bench/results/peers_val.json"
    result = run("figures", "quality", table, "-o", tmp_path / "a.png")
    assert result.exit_code == 1
    assert "peers_val.json: a table of moceir.evaluation.synthetic" in result.output
    assert "moceir evaluate -m peer:NAME" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["routes", "-o", "a.png"], "give one of these: clean IMAGES"),
        (["routes", "none", "-o", "a.gif"], "a.gif: the name must end in .png, .svg, .pdf"),
        (["routes", "none", "--kinds", "rian", "-o", "a.png"], "unknown degradation 'rian'"),
        (["routes", "none.png", "-o", "a.png"], "none.png"),
        (["routes", "--benchmarks", "sots", "-o", "a.png"], "the data sets (--data)"),
        (["routes", "--training", "a", "none", "-o", "a.png"], "experts.csv"),
        (["figures", "errors", "--pair", "a.png", "b.png", "-o", "c.png"], "a.png"),
        (["figures", "quality", "none.json", "-o", "c.png"], "none.json"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 1 and message in result.output
    assert not list(tmp_path.iterdir())
