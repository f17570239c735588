"""Restorer: what goes in comes out, restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moceir import Restorer
from moceir.errors import ConfigError, PictureError, WeightsError
from moceir.model import MoCEIR, save_weights
from moceir.pictures.pixels import to_tensor
from tests.pictures.test_codec import ICC, exif
from tests.published_weights import TINY


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    torch.manual_seed(0)
    return Restorer(MoCEIR(TINY), device="cpu")


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_all_kinds_of_input_agree(restorer: Restorer, image: Image.Image, tmp_path: Path) -> None:
    expected = np.asarray(restorer(image))
    image.save(tmp_path / "a.png")
    from_path = restorer(tmp_path / "a.png")
    assert isinstance(from_path, Image.Image)
    assert np.array_equal(np.asarray(from_path), expected)
    assert np.array_equal(np.asarray(restorer(str(tmp_path / "a.png"))), expected)

    from_array = restorer(np.asarray(image))
    assert from_array.dtype == np.uint8
    assert np.array_equal(from_array, expected)

    x = to_tensor(image)[None].expand(2, -1, -1, -1)
    y = restorer(x.double())
    assert y.dtype == torch.float64 and y.shape == x.shape
    assert y.min() >= 0 and y.max() <= 1
    levels = (y[1] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(levels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_grey_and_alpha_are_kept(restorer: Restorer, image: Image.Image, mode: str) -> None:
    given = image.convert(mode)
    if mode.endswith("A"):
        given.putalpha(image.getchannel("R"))
    restored = restorer(given)
    assert restored.mode == mode and restored.size == given.size
    if mode.endswith("A"):
        assert restored.getchannel("A").tobytes() == image.getchannel("R").tobytes()


def test_black_and_white_is_grey_and_16_bit_grey_stays(
    restorer: Restorer, image: Image.Image
) -> None:
    assert restorer(image.convert("1")).mode == "L"
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (9, 9), dtype=np.uint16))
    restored = restorer(deep)
    assert restored.mode == "I;16"
    assert (np.asarray(restored) % 257 != 0).any()


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(restorer: Restorer, image: Image.Image, mode: str) -> None:
    assert restorer(image.convert(mode)).mode == "RGB"


def test_tiles_and_strength_for_all_kinds_of_input(restorer: Restorer) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (140, 300, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    settings = {"tile": 256, "tile_overlap": 32, "strength": 0.5}
    expected, run = restorer.restore_pixels(pixels, **settings)
    assert run.tile == 256 and len(run.tile_experts) == 2 and len(run.experts) == 3
    assert np.array_equal(np.asarray(restorer(image, **settings)), expected)
    assert np.array_equal(restorer(pixels, **settings), expected)
    y = restorer(to_tensor(image)[None], **settings)
    levels = (y[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(levels.astype(int) - expected).max() <= 1
    full = restorer(pixels, tile=256, tile_overlap=32).astype(float)
    assert np.abs(expected - (full + pixels) / 2).max() <= 1
    for wrong, name in (({"strength": 2}, "strength 2"), ({"tile": 10}, "tile 10 is too small")):
        with pytest.raises(ConfigError, match=name):
            restorer(image, **wrong)


def test_experts_of_each_block_are_told(restorer: Restorer, image: Image.Image) -> None:
    experts = restorer.restore(image).experts
    assert len(experts) == 3
    assert set(experts) <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"\(H, W, 3\) uint8"),
        (np.zeros((4, 4, 3), np.float32), ValueError, r"\(H, W, 3\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"\(H, W, 3\) uint8"),
        (torch.zeros(3, 4, 4), ValueError, r"\(B, 3, H, W\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ValueError, "floating point"),
        ([1, 2], TypeError, "list"),
    ],
)
def test_other_inputs_are_refused(
    restorer: Restorer, given: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        restorer(given)  # type: ignore[call-overload]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_result_carries_what_belongs_to_it(
    restorer: Restorer, image: Image.Image, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif(6), icc_profile=ICC, dpi=(300, 300))
    with Image.open(path) as opened:
        for result in (restorer(path), restorer(opened)):
            assert result.size == image.size[::-1]  # upright
            for target in ("b.jpg", "b.png", "b.tif"):
                result.save(tmp_path / target, **result.info)
                with Image.open(tmp_path / target) as saved:
                    assert saved.info["icc_profile"] == ICC
                    assert [round(value) for value in saved.info["dpi"]] == [300, 300]
                    assert saved.size == result.size
                    assert saved.getexif()[0x010F] == "Maker"
                    assert saved.getexif().get(0x0112, 1) == 1
        assert opened.getexif().get(0x0112) == (6 if suffix != "tif" else None)  # as it was


def test_what_was_converted_is_told(restorer: Restorer, image: Image.Image) -> None:
    assert restorer.restore(image.convert("CMYK")).run.notes == ("CMYK, converted to sRGB",)


def test_missing_files_are_named(restorer: Restorer) -> None:
    with pytest.raises(PictureError, match=r"none\.png"):
        restorer("none.png")


def test_models_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_weights(MoCEIR(TINY), tmp_path / "model.safetensors")
    assert Restorer(tmp_path).model.config == TINY
    assert Restorer(str(tmp_path / "model.safetensors")).model.config == TINY
    with pytest.raises(WeightsError, match=r"no such weights.*compact"):
        Restorer("compakt")


def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'int4'.*bfloat16"):
        Restorer(MoCEIR(TINY), precision="int4")
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=device):
            Restorer(MoCEIR(TINY), device=device)
    for setting in ("cuda", "grouped_experts=fastest"):
        monkeypatch.setenv("MOCE_KERNELS_BACKEND", setting)
        with pytest.raises(ConfigError, match=setting):
            Restorer(MoCEIR(TINY), device="cpu")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_near(restorer: Restorer, image: Image.Image, precision: str) -> None:
    lower = Restorer(restorer.model, device="cpu", precision=precision)
    x = to_tensor(image)[None]
    assert (lower(x) - restorer(x)).abs().mean() < 0.02
