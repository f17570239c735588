"""Patches of a mixture: proportions, pairs that stay together, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moceir.data.crops import PixelCache
from moceir.data.datasets import Pair
from moceir.data.degradations import parse
from moceir.data.patches import MixturePatches, Source
from moceir.errors import PictureError
from tests.evaluation.trees import picture


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Three clean pictures, twice, and two pairs whose degraded one is the negative, three times.

    Every picture has a red channel of its own.
    """
    root = tmp_path_factory.mktemp("pictures")
    paths = []
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        pixels[..., 0] = i
        Image.fromarray(pixels).save(root / f"{i}.png")
        Image.fromarray(255 - pixels).save(root / f"negative_{i}.png")
        paths.append(root / f"{i}.png")
    return [
        Source(tuple(Pair(p) for p in paths[:3]), "noise", parse("noise"), repeat=2),
        Source(tuple(Pair(p, root / f"negative_{p.name}") for p in paths[3:]), "rain", repeat=3),
    ]


def test_an_epoch_shows_every_picture_as_often_as_it_repeats(sources: list[Source]) -> None:
    patches = MixturePatches(sources, crop=16, seed=0)
    assert len(patches) == 3 * 2 + 2 * 3
    orders = []
    for epoch in range(2):
        epoch_patches = [patches[epoch * len(patches) + i] for i in range(len(patches))]
        order = [int(patch.pixels[0, 0, 0, 0]) for patch in epoch_patches]
        assert Counter(order) == {0: 2, 1: 2, 2: 2, 3: 3, 4: 3}
        assert [patch.source for patch in epoch_patches] == [int(i > 2) for i in order]
        orders.append(order)
    assert orders[0] != orders[1]


def test_patches_are_a_function_of_seed_and_number(sources: list[Source]) -> None:
    patches = MixturePatches(sources, crop=16, seed=1)
    uncached = MixturePatches(sources, crop=16, seed=1, cache_mb=0)
    other = MixturePatches(sources, crop=16, seed=2)
    forwards = [patches[i].pixels for i in range(30)]
    backwards = [uncached[i].pixels for i in reversed(range(30))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert any(not np.array_equal(a, other[i].pixels) for i, a in enumerate(forwards))


def test_a_pair_is_cut_and_turned_together(sources: list[Source]) -> None:
    patches = MixturePatches(sources, crop=16, seed=0)
    for i in range(len(patches)):
        pixels, source = patches[i]
        assert pixels.shape == ((1, 2)[source], 3, 16, 16) and pixels.dtype == np.uint8
        if source:
            assert np.array_equal(pixels[1], 255 - pixels[0])


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    small, large = picture(tmp_path / "s.png", 20, 15), picture(tmp_path / "l.png", 32, 32)
    (tmp_path / "bad.png").write_bytes(b"text")

    def first(pair: Pair) -> None:
        MixturePatches([Source((pair,), "rain")], crop=16, seed=0)[0]

    with pytest.raises(
        PictureError, match=r"s\.png is 20 x 15 pixels, smaller than the crop of 16"
    ):
        first(Pair(small, small))
    with pytest.raises(PictureError, match=r"s\.png is 20 x 15 .*l\.png 32 x 32"):
        first(Pair(large, small))
    with pytest.raises(PictureError, match=r"bad\.png: not a picture"):
        first(Pair(large, tmp_path / "bad.png"))


def test_the_cache_keeps_to_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moceir.data import crops

    paths = [picture(tmp_path / f"{i}.png", 512, 512) for i in range(2)]  # 0.75 MiB each
    opened: list[Path] = []
    original = crops.rgb_pixels

    def counted(path: Path) -> np.ndarray:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(crops, "rgb_pixels", counted)
    cache = PixelCache(1)
    for _ in range(3):
        for path in paths:
            assert cache[path].dtype == np.uint8
    assert opened == [paths[0], *[paths[1]] * 3]
