"""Restorer: what goes in comes out, restored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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

ROOT = Path(__file__).parents[2]


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


def test_progress_is_told_before_each_tile_and_may_end_it(restorer: Restorer) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (140, 300, 3), dtype=np.uint8)
    calls: list[tuple[int, int]] = []

    def count(done: int, tiles: int) -> None:
        calls.append((done, tiles))
        if calls[-1] == (1, 2) and len(calls) > 2:
            raise KeyError("enough")

    told, _ = restorer.restore_pixels(pixels, tile=256, progress=count)
    assert calls == [(0, 2), (1, 2)]
    assert np.array_equal(told, restorer.restore_pixels(pixels, tile=256)[0])
    with pytest.raises(KeyError, match="enough"):
        restorer.restore_pixels(pixels, tile=256, progress=count)
    assert calls == [(0, 2), (1, 2)] * 2


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
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(H, W, 3\) uint8"),
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
    with pytest.raises(ConfigError, match="'meta' cannot be used"):  # it has no values
        Restorer(MoCEIR(TINY), device="meta")
    for setting in ("cuda", "grouped_experts=fastest", "pointwise_conv=cuda"):
        monkeypatch.setenv("MOCE_KERNELS_BACKEND", setting)
        with pytest.raises(ConfigError, match=setting.replace("=cuda", ": backend 'cuda'")):
            Restorer(MoCEIR(TINY), device="cpu")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_near(restorer: Restorer, image: Image.Image, precision: str) -> None:
    lower = Restorer(restorer.model, device="cpu", precision=precision)
    x = to_tensor(image)[None]
    assert (lower(x) - restorer(x)).abs().mean() < 0.02


class Overflowing(MoCEIR):
    """Its output is not finite in the dtypes that are named, for pictures that begin in white."""

    def __init__(self, *dtypes: torch.dtype) -> None:
        super().__init__(TINY)
        self.dtypes = dtypes

    def forward(self, image: torch.Tensor, return_routing: bool = False) -> Any:
        restored, routing = super().forward(image, return_routing=True)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
        if dtype in self.dtypes:
            white = image[:, :1, :1, :1] == 1
            restored = restored.where(~white, torch.inf)
        return restored, routing


@pytest.mark.parametrize("tile", [None, 256])
def test_an_overflow_is_restored_in_float32_and_said(tile: int | None) -> None:
    torch.manual_seed(0)
    model = Overflowing(torch.float16)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300, 40, 3), dtype=np.uint8)
    pixels[:, 0, 0] = 0
    pixels[1, 0, 0] = 255
    restorer = Restorer(model, device="cpu", precision="float16")
    restored, runs = restorer.restore_batch(pixels, tile=tile)
    note = "overflowed in float16: restored in float32"
    assert [note in run.notes for run in runs] == [False, True, False]
    exact, _ = Restorer(model, device="cpu").restore_pixels(pixels[1], tile=tile)
    assert np.array_equal(restored[1], exact)
    for i in (0, 2):  # the others stay as they are alone
        assert np.array_equal(restored[i], restorer.restore_pixels(pixels[i], tile=tile)[0])

    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert restorer(images, tile=tile).isfinite().all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_result_that_is_not_finite_is_an_error(precision: str) -> None:
    torch.manual_seed(0)
    restorer = Restorer(Overflowing(torch.float32, torch.bfloat16), "cpu", precision)
    for white in (np.full((8, 9, 3), 255, np.uint8), torch.ones(2, 3, 8, 9)):
        with pytest.raises(PictureError, match=r"result for this 9 x 8 image contains NaN"):
            restorer(white)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0001, r"values from 0 to 1\.0001: scale them to \[0, 1\], as with \.cl\w+\(0, 1\)"),
        (-0.25, r"values from -0\.25 to 0: .*\.cl"),
        (255.0, r"values from 0 to 255: .*\.cl"),
        (float("inf"), "values from 0 to inf"),
        (float("nan"), "NaN"),
    ],
)
def test_values_out_of_range_are_refused(restorer: Restorer, value: float, message: str) -> None:
    images = torch.zeros(2, 3, 8, 9)
    images[1, 2, 3, 4] = value
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(ValueError, match=message):
            restorer(images.to(dtype))
    with pytest.raises(ValueError, match=message):
        restorer.restore_batch(images.permute(0, 2, 3, 1).contiguous().numpy())
    clamped = restorer(images.nan_to_num().clamp(0, 1))
    assert clamped.isfinite().all()


def test_a_batch_of_none_is_one_of_none(restorer: Restorer) -> None:
    restored = restorer(torch.zeros(0, 3, 8, 9, dtype=torch.float16))
    assert restored.shape == (0, 3, 8, 9) and restored.dtype == torch.float16
    pixels, runs = restorer.restore_batch(np.zeros((0, 8, 9, 3), np.uint8))
    assert pixels.shape == (0, 8, 9, 3) and runs == ()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((8, 9, 3), np.int32), "dtype int32: give uint8, uint16 or float32"),
        (np.zeros((8, 9, 3), np.float64), "dtype float64: give"),
        (np.zeros((8, 9, 5), np.uint8), r"shape \(8, 9, 5\): give"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\): give"),
        (np.zeros((8, 9), np.uint8), r"shape \(8, 9\): give"),
    ],
)
def test_other_pixels_are_refused(restorer: Restorer, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restorer.restore_pixels(pixels)


FORKED = """
import os, signal
import numpy as np, torch
from moceir import Restorer
torch.set_num_threads(2)
restorer = Restorer(device="cpu")
pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
expected = restorer(pixels)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    same = np.abs(restorer(pixels).astype(int) - expected).max() <= 1
    os._exit(0 if same and torch.get_num_threads() == 1 else 1)
print(os.waitpid(child, 0)[1], torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_restores_too() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "0 2\n", done.stderr
