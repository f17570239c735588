"""Patches from files: proportions, pairs that stay together, their numbers, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moceir.data.crops import PixelCache, places
from moceir.data.datasets import Pair
from moceir.data.degradations import parse
from moceir.data.patches import FilePatches
from moceir.data.samples import CleanPictures, Mixture, Source
from moceir.data.synthesis import SEVERAL
from moceir.errors import PictureError
from moceir.pictures.images import find_pictures, rgb_pixels
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


CPU = torch.device("cpu")


def test_an_epoch_shows_every_picture_as_often_as_it_repeats(sources: list[Source]) -> None:
    mixture = Mixture(sources)
    size = len(mixture)
    assert size == 3 * 2 + 2 * 3 and mixture.labels == ["noise", "rain"]
    patches = FilePatches(mixture, crop=16, seed=0)
    orders = []
    for epoch in range(2):
        read = patches.read(range(epoch * size, (epoch + 1) * size))
        assert read.clean is not None
        order = read.clean[:, 0, 0, 0].tolist()
        assert Counter(order) == {0: 2, 1: 2, 2: 2, 3: 3, 4: 3}
        assert patches.batch(read, CPU).labels == [int(i > 2) for i in order]
        orders.append(order)
    assert orders[0] != orders[1]


def test_patches_are_a_function_of_seed_and_number(sources: list[Source]) -> None:
    """Whichever others they are made with, over the ends of epochs, degradations included."""
    patches = FilePatches(Mixture(sources), crop=16, seed=1)
    uncached = FilePatches(Mixture(sources), crop=16, seed=1, cache_mb=0)
    whole = patches.batch(patches.read(range(30)), CPU)
    for number in reversed(range(30)):
        alone = uncached.batch(uncached.read([number]), CPU)
        assert torch.equal(alone.clean[0], whole.clean[number])
        assert torch.equal(alone.degraded[0], whole.degraded[number])
        assert alone.labels[0] == whole.labels[number]
    other = FilePatches(Mixture(sources), crop=16, seed=2)
    assert not torch.equal(other.batch(other.read(range(30)), CPU).clean, whole.clean)


def test_a_pair_is_cut_and_turned_together_and_clean_patches_are_degraded(
    sources: list[Source],
) -> None:
    patches = FilePatches(Mixture(sources), crop=16, seed=0)
    clean, degraded, labels = patches.batch(patches.read(range(12)), CPU)
    assert clean.shape == degraded.shape == (12, 3, 16, 16) and set(labels) == {0, 1}
    for one, bad, label in zip(clean * 255, degraded * 255, labels, strict=True):
        if label == 1:
            torch.testing.assert_close(bad, 255 - one)
        else:
            torch.testing.assert_close(bad, bad.round())
            assert 5 < (bad - one).std() < 40  # noise of sigma 25, clipped


def clean_pictures(*kinds: str, **more: float) -> CleanPictures:
    return CleanPictures((Path("none.png"),), kinds, **more)  # type: ignore[arg-type]


def test_clean_patches_are_degraded_as_their_number_says() -> None:
    samples = clean_pictures("noise", "haze", "jpeg", max_mixture=2, mixed=0.5)
    assert samples.labels == ["noise", "haze", "jpeg", SEVERAL]
    clean = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    taken = np.zeros(4, dtype=np.int64)
    whole = samples.degrade(clean, None, range(12, 16), taken, 7)
    again = samples.degrade(clean[2:], None, range(14, 16), taken[2:], 7)
    assert torch.equal(whole.clean, clean.float() / 255)
    assert torch.equal(again.degraded, whole.degraded[2:]) and again.labels == whole.labels[2:]
    others = samples.degrade(clean, None, range(16, 20), taken, 7)
    assert not torch.equal(others.degraded, whole.degraded)
    # 8-bit levels, as in a file.
    levels = whole.degraded * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


def test_night_scenes_are_dark_keep_their_lamps_and_are_to_stay_so() -> None:
    samples = clean_pictures("noise", clean=1.0, night=0.4)
    clean = torch.randint(1, 255, (64, 3, 16, 16), dtype=torch.uint8)
    clean[:, :, 0, 0], clean[:, :, 1, 1] = 255, 0
    taken = np.zeros(64, dtype=np.int64)
    whole = samples.degrade(clean, None, range(64), taken, 7)
    assert torch.equal(whole.clean, whole.degraded)  # nothing is wrong with them
    assert (whole.clean[:, :, 0, 0] == 1).all() and (whole.clean[:, :, 1, 1] == 0).all()
    before, after = clean.float().mean((1, 2, 3)) / 255, whole.clean.mean((1, 2, 3))
    dark = after < before - 0.01
    assert 0.2 < dark.float().mean() < 0.6
    assert torch.equal(whole.clean[~dark], clean[~dark] / 255)
    assert (after[dark] > 0.15).all() and (after[dark] < 0.45).all()
    alone = samples.degrade(clean[5:6], None, [5], taken[:1], 7)
    assert torch.equal(alone.clean[0], whole.clean[5])


def test_faded_scenes_have_no_black_keep_their_contrast_and_are_to_stay_so() -> None:
    samples = clean_pictures("noise", clean=1.0, faded=0.4)
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(64, 3, 16, 16)
    taken = np.zeros(64, dtype=np.int64)
    whole = samples.degrade(ramp, None, range(64), taken, 7)
    assert torch.equal(whole.clean, whole.degraded)
    curves = whole.clean[:, 0].flatten(1)
    pale = curves[:, 0] > 0
    assert 0.2 < pale.float().mean() < 0.6
    assert torch.equal(curves[~pale], (ramp[~pale, 0] / 255).flatten(1))
    black = curves[pale, 0]
    assert (black > 0.02).all() and (black < 0.31).all() and (curves[:, 255] == 1).all()
    assert (curves.diff(dim=1) >= 0).all()
    # Light tones keep more of their contrast than under haze of the same black.
    lights = (curves[pale, 250] - curves[pale, 180]) / (70 / 255)
    assert (lights > 1 - black).all()
    alone = samples.degrade(ramp[5:6], None, [5], taken[:1], 7)
    assert torch.equal(alone.clean[0], whole.clean[5])


def test_kinds_are_taken_in_turn() -> None:
    """Every round of as many patches as there are kinds has each once, in an order of its own."""
    samples = clean_pictures("noise", "haze", "jpeg", "jpeg")
    clean = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    drawn = [
        label
        for step in range(8)
        for label in samples.degrade(
            clean, None, range(3 * step, 3 * step + 3), np.zeros(3, dtype=np.int64), 1
        ).labels
    ]
    rounds = [drawn[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(one) == [0, 1, 2, 2] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_a_seed_means_the_same_patches_from_version_to_version() -> None:
    """The picture, the place in it, its flip and its turns; a run goes on with a newer version."""
    drawn = places(3, np.asarray([0, 1, 10**12])) * 2**53
    assert drawn.astype(np.int64).tolist() == [
        [8362976060730134, 3628074214307647, 8514943430483416, 5335611888954881, 8319382728614010],
        [7195775571906985, 8378971352457899, 2932936389529181, 7774090212639538, 4320445170353401],
        [6188219083267672, 1713419668503768, 7902202911295424, 4999135930107440, 5155687452215264],
    ]
    samples = CleanPictures(tuple(map(Path, "abcde")), ("noise",))
    assert samples.take(3, [0, 1, 10**12]).tolist() == [4, 3, 3]


def of_folder(folder: Path, crop: int, **more: int) -> FilePatches:
    return FilePatches(CleanPictures(tuple(find_pictures(folder)), ("noise",)), crop, 0, **more)


def test_clean_pictures_are_cut_turned_and_flipped(tmp_path: Path) -> None:
    """All eight orientations of a picture as small as the crop occur, and nothing else."""
    path = picture(tmp_path / "a.png", 4, 4)
    pixels = rgb_pixels(path).transpose(2, 0, 1)
    ways = {
        np.ascontiguousarray(np.rot90(p, turns, axes=(1, 2))).tobytes()
        for p in (pixels, pixels[:, :, ::-1])
        for turns in range(4)
    }
    read = of_folder(tmp_path, 4).read(range(100))
    assert read.clean is not None and read.degraded is None
    assert len(ways) == 8
    assert {patch.tobytes() for patch in read.clean} == ways


def test_small_clean_pictures_are_reflected(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 5, 3)
    patch = of_folder(tmp_path, 16).read([0]).clean
    assert patch is not None and patch.shape == (1, 3, 16, 16)
    colours = {tuple(colour) for colour in rgb_pixels(path).reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in patch[0].reshape(3, -1).T.tolist()} == colours


def test_an_unreadable_training_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(PictureError, match=r"bad\.png"):
        of_folder(tmp_path, 16).read([0])


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    small, large = picture(tmp_path / "s.png", 20, 15), picture(tmp_path / "l.png", 32, 32)
    (tmp_path / "bad.png").write_bytes(b"text")

    def first(pair: Pair) -> None:
        FilePatches(Mixture([Source((pair,), "rain")]), crop=16, seed=0).read([0])

    with pytest.raises(
        PictureError, match=r"s\.png is 20 x 15 pixels, smaller than the crop of 16"
    ):
        first(Pair(small, small))
    with pytest.raises(PictureError, match=r"s\.png is 20 x 15 .*l\.png 32 x 32"):
        first(Pair(large, small))
    with pytest.raises(PictureError, match=r"bad\.png: not an image"):
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
