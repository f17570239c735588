"""``only``, ``light`` and ``detail`` of a Restorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moceir.data import degradations
from moceir.errors import ConfigError, TooLittleMemory
from moceir.inference.restorer import Restorer
from moceir.pictures.pixels import LUMA, to_image, to_tensor
from tests.browser import SAMPLE
from tests.small_network import restorer

__all__ = ["restorer"]

CLEAN = sorted((SAMPLE.parent / "clean").iterdir())


@pytest.fixture(scope="module")
def bundled() -> Restorer:
    return Restorer("compact", "cpu")


def photograph(number: int = 0, side: int = 256) -> Image.Image:
    with Image.open(CLEAN[number]) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def degraded(image: Image.Image, kind: str) -> np.ndarray:
    return np.asarray(
        to_image(degradations.degrade(to_tensor(image)[None], degradations.parse(kind), seed=0)[0])
    )


def luminance(pixels: np.ndarray) -> float:
    return float((pixels.mean((0, 1)) * LUMA).sum())


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


def test_noise_is_removed_from_a_dark_picture_that_stays_dark(bundled: Restorer) -> None:
    dark = degraded(photograph(), "low_light:noise_sigma=0")
    noisy = degraded(Image.fromarray(dark), "noise:sigma=8")
    result, _ = bundled.restore_pixels(noisy, only="noise")
    assert luminance(result) == pytest.approx(luminance(noisy), rel=0.01)
    assert error(result, dark) < 0.4 * error(noisy, dark)
    brighter, _ = bundled.restore_pixels(noisy)
    assert luminance(brighter) > 1.5 * luminance(noisy)


def test_light_is_restored_and_noise_stays(bundled: Restorer) -> None:
    noisy = degraded(photograph(), "low_light:noise_sigma=4")
    lighter, _ = bundled.restore_pixels(noisy, only=("low_light",))
    everything, _ = bundled.restore_pixels(noisy)
    assert luminance(lighter) == pytest.approx(luminance(everything), rel=0.05)
    grain = [np.abs(np.diff(x.astype(float), axis=1)).mean() for x in (lighter, everything)]
    assert grain[0] > 1.3 * grain[1]


def test_what_is_not_wanted_stays(bundled: Restorer) -> None:
    noisy = degraded(photograph(), "noise:sigma=25")
    result, _ = bundled.restore_pixels(noisy, only="rain,snow")
    removed, _ = bundled.restore_pixels(noisy, only="noise")
    clean = np.asarray(photograph())
    assert error(result, noisy) < 0.1 * error(removed, noisy)
    assert error(removed, clean) < 0.25 * error(noisy, clean)


def test_clean_pictures_are_left_alone(bundled: Restorer) -> None:
    found = []
    for number in range(len(CLEAN)):
        pixels = np.asarray(photograph(number))
        result, run = bundled.restore_pixels(pixels, only="found")
        assert np.array_equal(result, pixels)
        found.append(run.found)
        if not run.found:
            assert run.notes == ("found nothing to remove: left as it is",)
    assert found.count(()) >= len(CLEAN) - 1  # grain is found in the darkest


@pytest.mark.parametrize("kind", ["noise", "haze", "low_light", "jpeg", "rain", "snow"])
def test_degradations_are_found(bundled: Restorer, kind: str) -> None:
    found = [
        bundled.restore_pixels(degraded(photograph(i), kind), only="found")[1].found or ()
        for i in range(len(CLEAN))
    ]
    assert sum(kind in names for names in found) > len(CLEAN) / 2, found


def test_each_image_of_a_batch_is_judged_by_itself(bundled: Restorer) -> None:
    clean = np.asarray(photograph())
    pixels = np.stack([clean, degraded(photograph(), "noise")])
    results, runs = bundled.restore_batch(pixels, only="found")
    assert runs[0].found == () and "noise" in (runs[1].found or ())
    assert np.array_equal(results[0], clean)
    alone, _ = bundled.restore_pixels(pixels[1], only="found")
    assert np.abs(results[1].astype(int) - alone).max() <= 1
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    restored = bundled(tensor, only="found")
    assert torch.equal(restored[0], tensor[0]) and not torch.equal(restored[1], tensor[1])


SETTINGS: tuple[dict[str, Any], ...] = (
    {"only": "noise"},
    {"only": "haze"},
    {"only": ["haze", "low_light"]},
    {"only": "found"},
    {"light": 0.0},
    {"detail": 0.5},
    {"light": 0.2, "detail": 0.7, "only": ("rain",)},
)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((33, 47, 3), "uint8"),
        ((1, 1, 3), "uint8"),
        ((40, 21, 1), "uint16"),
        ((17, 30, 4), "float32"),
    ],
)
def test_all_shapes_and_depths(
    restorer: Restorer, settings: dict[str, Any], shape: tuple[int, int, int], dtype: str
) -> None:
    values = np.random.default_rng(0).random(shape, np.float32)
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    pixels = (values * white).astype(dtype)
    result, run = restorer.restore_pixels(pixels, **settings)
    assert (result.shape, result.dtype) == (pixels.shape, pixels.dtype)
    assert np.isfinite(result.astype(float)).all()
    if shape[2] == 4:
        assert np.array_equal(result[..., 3], pixels[..., 3])
    assert (run.found is not None) == (settings.get("only") == "found")


@pytest.mark.parametrize("settings", [{"only": "noise"}, {"light": 0.5}, {"only": "haze"}])
def test_parts_of_a_large_picture_join_without_seams(
    bundled: Restorer, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photograph(0, 320).resize((640, 320))
    pixels = degraded(image, "haze,noise:sigma=15")
    in_parts, _ = bundled.restore_pixels(pixels, **settings)
    monkeypatch.setattr("moceir.inference.selection.TILE", 1024)
    whole, _ = bundled.restore_pixels(pixels, **settings)
    difference = np.abs(in_parts.astype(int) - whole)
    assert difference.mean() < 0.3 and difference.max() <= 12


def test_progress_is_told_of_both_passes_and_can_end_them(restorer: Restorer) -> None:
    pixels = (np.random.default_rng(0).random((600, 40, 3)) * 255).astype(np.uint8)
    told: list[tuple[int, int]] = []

    def count(done: int, of: int) -> None:
        told.append((done, of))
        if len(told) == 3:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        restorer.restore_pixels(pixels, tile=0, only="noise", progress=count)
    assert told == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError()])
def test_out_of_memory_is_told(
    restorer: Restorer, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise error

    released = iter([True, False])
    monkeypatch.setattr("moceir.inference.restorer.select", fails)
    monkeypatch.setattr(restorer._graphs, "release", lambda: next(released))
    with pytest.raises(TooLittleMemory, match="ran out of memory while separating light"):
        restorer.restore_pixels(np.zeros((8, 8, 3), np.uint8), light=0.5)
    assert next(released, None) is None  # it was tried again with the memory of graphs


def test_the_callers_autocast_changes_nothing(restorer: Restorer) -> None:
    pixels = (np.random.default_rng(0).random((40, 56, 3)) * 255).astype(np.uint8)
    expected, _ = restorer.restore_pixels(pixels, only="noise")
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = restorer.restore_pixels(pixels, only="noise")
    assert np.array_equal(found, expected)


def test_strengths(restorer: Restorer) -> None:
    pixels = (np.random.default_rng(0).random((40, 56, 3)) * 255).astype(np.uint8)
    same, _ = restorer.restore_pixels(pixels, light=0.0, detail=0.0)
    assert np.array_equal(same, pixels)
    same, _ = restorer.restore_pixels(pixels, strength=0.0, only="noise,haze")
    assert np.array_equal(same, pixels)
    scalar, _ = restorer.restore_pixels(pixels, light=np.float32(0.0), detail=torch.tensor(0))
    assert np.array_equal(scalar, pixels)
    both, _ = restorer.restore_pixels(pixels, light=0.4, detail=0.4)
    blended, _ = restorer.restore_pixels(pixels, strength=0.4)
    assert np.array_equal(both, blended)
    # Nearly the whole: what is put together again is what was taken apart.
    parts, _ = restorer.restore_pixels(pixels, detail=0.9999999)
    whole, _ = restorer.restore_pixels(pixels)
    assert np.abs(parts.astype(int) - whole).max() <= 1


def test_exposure_is_held(bundled: Restorer) -> None:
    dark = degraded(photograph(), "low_light")
    held, _ = bundled.restore_pixels(dark, light=0.0)
    assert luminance(held) == pytest.approx(luminance(dark), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": "dust"}, "only: unknown degradation 'dust': give some of noise, rain, haze"),
        ({"only": "noise,found"}, "only: found stands alone, as a string: give that, or some of"),
        ({"only": ["found"]}, "only: found stands alone, as a string"),
        ({"only": ""}, "only: no degradation is named: give some of noise, rain"),
        ({"only": ()}, "only: no degradation is named"),
        ({"only": 5}, "only: 5: give some of noise, rain"),
        ({"strength": "1"}, "strength '1': give 0"),
        ({"light": 1.5}, "light 1.5: give 0 (as it was) to 1 (fully restored)"),
        ({"detail": -1}, "detail -1: give 0"),
        ({"strength": float("nan")}, "strength nan: give 0"),
        ({"tile": "512"}, "tile '512': give a whole number of pixels"),
        ({"tile": 512, "tile_overlap": 64.0}, "tile_overlap 64.0: give a whole number"),
    ],
)
def test_refused(restorer: Restorer, settings: dict[str, Any], message: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError) as caught:
        restorer.restore_pixels(pixels, **settings)
    assert message in str(caught.value)
    with pytest.raises(ConfigError):
        restorer.map([pixels], **settings)


def test_an_unknown_setting_is_named(restorer: Restorer) -> None:
    with pytest.raises(TypeError, match="unknown setting 'strenght': there are tile, "):
        restorer(np.zeros((8, 8, 3), np.uint8), strenght=0.5)  # type: ignore[call-overload]


def test_a_file(bundled: Restorer, tmp_path: Path) -> None:
    photograph().save(tmp_path / "a.png")
    assert bundled.restore(tmp_path / "a.png", only="found").run.found == ()
