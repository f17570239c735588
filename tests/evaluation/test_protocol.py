"""Every detail of the published protocols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moceir.errors import ConfigError, PictureError
from moceir.evaluation.protocol import PROTOCOLS, Benchmark, benchmarks, centre_crop
from tests.evaluation.trees import picture, published

PUBLISHED = PROTOCOLS["published"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("published"))


def one(name: str, root: Path, **more: object) -> Benchmark:
    (found,) = benchmarks([name], root, **more)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("height, width", [(37, 50), (16, 31), (321, 481)])
def test_the_crop_is_about_the_middle(height: int, width: int) -> None:
    image = torch.arange(height * width).reshape(1, height, width)
    rows, columns = height % 16, width % 16
    # The published rule: half the rest, rounded down, goes from the start.
    expected = image[
        :,
        rows // 2 : height - rows + rows // 2,
        columns // 2 : width - columns + columns // 2,
    ]
    assert torch.equal(centre_crop(image, 16), expected)


def test_pictures_are_cropped_to_multiples_of_16_but_for_cdd11(root: Path) -> None:
    for name, size in {"rain100l": (32, 32), "cbsd68-25": (32, 32), "cdd11-haze": (37, 41)}.items():
        benchmark = one(name, root)
        degraded, clean = benchmark.load(benchmark.pairs[0], PUBLISHED)
        assert degraded.shape[1:] == clean.shape[1:] == size
        assert degraded.dtype == clean.dtype == torch.float32


def test_noise_is_clipped_and_truncated_to_8_bits(tmp_path: Path) -> None:
    """Not rounded: on a grey picture the mean falls by half a level."""
    grey = np.full((512, 512, 3), 128, dtype=np.uint8)
    (tmp_path / "denoising/CBSD68").mkdir(parents=True)
    Image.fromarray(grey).save(tmp_path / "denoising/CBSD68/grey.png")
    benchmark = one("cbsd68-25", tmp_path)
    degraded, clean = benchmark.load(benchmark.pairs[0], PUBLISHED)
    levels = degraded.double() * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    noise = levels - 128
    count = noise.numel()
    assert noise.mean().item() == pytest.approx(-0.5, abs=5 * 25 / count**0.5)
    assert noise.std().item() == pytest.approx(25, rel=0.01)
    assert torch.equal(clean, torch.full_like(clean, 128 / 255))
    black = Image.fromarray(np.zeros_like(grey))
    black.save(tmp_path / "denoising/CBSD68/grey.png")
    degraded, _ = benchmark.load(benchmark.pairs[0], PUBLISHED)
    assert degraded.min() == 0 and degraded.max() <= 1


def test_noise_is_that_of_the_cropped_picture(tmp_path: Path) -> None:
    results = []
    for folder, box in (("whole", (0, 0, 45, 41)), ("cropped", (6, 4, 38, 36))):
        pixels = np.random.default_rng(0).integers(0, 256, (41, 45, 3), dtype=np.uint8)
        path = tmp_path / folder / "denoising/CBSD68/0001.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).crop(box).save(path)
        benchmark = one("cbsd68-25", tmp_path / folder)
        results.append(benchmark.load(benchmark.pairs[0], PUBLISHED))
    for whole, cropped in zip(*results, strict=True):
        assert torch.equal(whole, cropped)


def test_noise_depends_on_the_picture_and_nothing_else(root: Path, tmp_path: Path) -> None:
    benchmark = one("cbsd68-25", root)
    first, second = (benchmark.load(pair, PUBLISHED)[0] for pair in benchmark.pairs)
    again = [benchmark.load(pair, PUBLISHED)[0] for pair in reversed(benchmark.pairs)]
    assert torch.equal(first, again[1]) and torch.equal(second, again[0])
    # In another folder, alone, under another number.
    copy = tmp_path / "denoising/CBSD68/0001.png"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(benchmark.pairs[1].clean.read_bytes())
    alone = one("cbsd68-25", tmp_path)
    assert torch.equal(alone.load(alone.pairs[0], PUBLISHED)[0], second)
    # Another picture, sigma or seed gives other noise.
    noises = [
        benchmark.load(pair, PUBLISHED, seed=seed)[0] - benchmark.load(pair, PUBLISHED)[1]
        for pair, seed in zip(benchmark.pairs, (0, 0), strict=True)
    ]
    assert not torch.equal(noises[0], noises[1])
    assert not torch.equal(benchmark.load(benchmark.pairs[0], PUBLISHED, seed=1)[0], first)
    other = one("cbsd68-50", root)
    assert not torch.equal(other.load(other.pairs[0], PUBLISHED)[0], first)


def test_the_variants_differ_in_the_window_of_ssim_alone() -> None:
    published, promptir = PROTOCOLS["published"], PROTOCOLS["promptir"]
    assert (published.ssim_window, promptir.ssim_window) == ("gaussian", "uniform")
    assert published.crop == promptir.crop == 16


def test_names_of_benchmarks(root: Path) -> None:
    found = benchmarks(["sots", "cbsd68", "kodak24-75", "cdd11"], root, sigmas=(15, 25))
    names = [b.name for b in found]
    assert names[:4] == ["sots", "cbsd68-15", "cbsd68-25", "kodak24-75"]
    assert len(names) == 4 + 11 and names[4] == "cdd11-low"
    assert [b.task for b in found[:4]] == ["haze", "noise", "noise", "noise"]
    with pytest.raises(ConfigError, match=r"unknown benchmark 'bsd86'.*known: cbsd68"):
        benchmarks(["bsd86"], root)
    with pytest.raises(ConfigError, match="name the folder that holds the data sets") as raised:
        benchmarks(["sots"], None)
    assert raised.value.argument == "data"
    with pytest.raises(ConfigError, match="twice: sots"):
        benchmarks(["sots", "sots"], root)
    with pytest.raises(ConfigError, match="sigma 0"):
        benchmarks(["cbsd68"], root, sigmas=(0,))


def test_no_pair_has_the_name_of_a_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The papers' rows would stand beside it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("gopro", "clean"):
        picture(Path(folder, "1.png"), 36, 40)
    (found,) = benchmarks([], None, folders=[("gopro", "clean")])
    assert (found.name, found.title, found.task) == ("./gopro", "gopro", "gopro")
    (found,) = benchmarks([], None, folders=[(tmp_path / "gopro", "clean")])
    assert found.name == str(tmp_path / "gopro")


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    picture(bad / "1.png", 40, 36)
    picture(good / "1.png", 36, 40)
    (benchmark,) = benchmarks([], None, folders=[(bad, good)])
    with pytest.raises(PictureError, match=r"bad/1\.png is 40 x 36 .*36 x 40 .*same size"):
        benchmark.load(benchmark.pairs[0], PUBLISHED)
    (bad / "1.png").write_bytes(b"text")
    with pytest.raises(PictureError, match=r"bad/1\.png: not an image"):
        benchmark.load(benchmark.pairs[0], PUBLISHED)
    picture(bad / "1.png", 40, 10)
    picture(good / "1.png", 40, 10)
    with pytest.raises(PictureError, match=r"40 x 10 pixels.*leaves nothing"):
        benchmark.load(benchmark.pairs[0], PUBLISHED)
