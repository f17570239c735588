"""The classical methods that networks are measured against."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from moceir.data.degradations import degrade, parse
from moceir.data.kinds import KINDS
from moceir.errors import ConfigError, PictureError
from moceir.evaluation import peers
from moceir.evaluation.methods import find_method
from moceir.evaluation.metrics import psnr
from moceir.evaluation.peers import PEERS, find_peer


def scene(height: int = 64, width: int = 80) -> Tensor:
    """A picture with areas, edges and something dark everywhere, (3, H, W) in [0, 1]."""
    random = np.random.default_rng(3)
    tiles = torch.from_numpy(random.random((3, 8, 10), dtype=np.float32))
    tiles[:, ::2, ::2] *= 0.1
    image = tiles.repeat_interleave(height // 8, 1).repeat_interleave(width // 10, 2)
    ramp = torch.linspace(0.8, 1, width)
    return (image * ramp).mul(255).round().div(255)


def restore(name: str, degraded: Tensor, sigma: float | None = None) -> Tensor:
    return find_method(f"peer:{name}").restore(degraded, sigma, None).image


def needs(name: str) -> None:
    for module in PEERS[name].packages.values():
        pytest.importorskip(module, reason=f"needs pip install 'moceir[{PEERS[name].extra}]'")


@pytest.mark.parametrize(
    ("name", "degradation", "gain"),
    [
        ("bm3d", "noise:sigma=25", 7),
        ("bm3d_true_sigma", "noise:sigma=25", 8),
        ("nlm", "noise:sigma=25", 4),
        ("dark_channel", "haze:beta=1:view=0", 3),
        ("auto_levels", "haze:beta=1:view=0", 3),
        ("auto_levels", "low_light:exposure=-3", 3),
        ("gamma", "low_light:exposure=-3", 3),
    ],
)
def test_it_improves_what_it_is_for(name: str, degradation: str, gain: float) -> None:
    needs(name)
    clean = scene()
    (degraded,) = degrade(clean[None], parse(degradation), seed=1)
    before = degraded.clone()
    restored = restore(name, degraded, 25.0)
    assert psnr(restored, clean) > psnr(degraded, clean) + gain
    assert torch.equal(degraded, before)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("picture", ["scene", "black", "white", "grey", "monochrome", "odd"])
def test_any_picture_gives_one_like_it(name: str, picture: str) -> None:
    needs(name)
    given = {
        "scene": scene(),
        "black": torch.zeros(3, 24, 20),
        "white": torch.ones(3, 24, 20),
        "grey": torch.full((3, 24, 20), 0.5),
        "monochrome": scene()[:1].expand(3, -1, -1),
        "odd": scene()[:, :17, :23],
    }[picture]
    restored = restore(name, given, 25.0)
    assert restored.shape == given.shape and restored.dtype == torch.float32
    assert restored.isfinite().all() and restored.min() >= 0 and restored.max() <= 1


def test_all_are_for_kinds_there_are() -> None:
    assert all(peer.kinds and set(peer.kinds) <= set(KINDS) for peer in PEERS.values())


def _slow_dark_channel(image: np.ndarray) -> np.ndarray:
    """He et al., pixel by pixel in float64; (3, H, W)."""
    _, height, width = image.shape
    half = peers.PATCH // 2

    def around(y: int, x: int, reach: int) -> tuple[slice, slice]:
        return (
            slice(max(0, y - reach), min(height, y + reach + 1)),
            slice(max(0, x - reach), min(width, x + reach + 1)),
        )

    def dark(values: np.ndarray) -> np.ndarray:
        out = np.empty((height, width))
        for y in range(height):
            for x in range(width):
                out[y, x] = values[(slice(None), *around(y, x, half))].min()
        return out

    darkness = dark(image)
    count = max(1, int(0.001 * darkness.size))
    places = np.argsort(darkness, axis=None)[::-1][:count]
    brightest = max(places, key=lambda p: image[:, p // width, p % width].sum())
    airlight = image[:, brightest // width, brightest % width]
    raw = 1 - 0.95 * dark(image / airlight[:, None, None])
    guide = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    slope, offset, fine = (np.empty((height, width)) for _ in range(3))
    for y in range(height):
        for x in range(width):
            window = around(y, x, peers.GUIDED_RADIUS)
            i, p = guide[window], raw[window]
            slope[y, x] = ((i - i.mean()) * (p - p.mean())).mean() / (i.var() + 1e-3)
            offset[y, x] = p.mean() - slope[y, x] * i.mean()
    for y in range(height):
        for x in range(width):
            window = around(y, x, peers.GUIDED_RADIUS)
            fine[y, x] = slope[window].mean() * guide[y, x] + offset[window].mean()
    thickness = np.clip(fine, 0.1, 1)
    restored = (image - airlight[:, None, None]) / thickness + airlight[:, None, None]
    return np.clip(restored, 0, 1)


@pytest.mark.parametrize("radius", [60, 5])
def test_the_dark_channel_is_that_of_plain_loops(
    monkeypatch: pytest.MonkeyPatch, radius: int
) -> None:
    monkeypatch.setattr(peers, "GUIDED_RADIUS", radius)
    random = np.random.default_rng(0)
    # All values differ, so that the brightest pixel is one in both.
    hazy = torch.from_numpy(0.4 + 0.5 * random.random((3, 33, 46), dtype=np.float32))
    expected = _slow_dark_channel(hazy.double().numpy())
    restored = peers.dark_channel(hazy)
    np.testing.assert_allclose(restored.numpy(), expected, rtol=0, atol=1e-6)


def test_levels_are_stretched_channel_by_channel() -> None:
    needs("auto_levels")
    ramp = torch.linspace(0, 1, 1000).reshape(1, 20, 50)
    given = torch.cat([0.2 + 0.5 * ramp, 0.1 * ramp, torch.full_like(ramp, 0.3)])
    red, green, blue = peers.auto_levels(given)
    expected = ((ramp[0] - 0.005) / 0.99).clamp(0, 1)
    torch.testing.assert_close(red, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(green, expected, rtol=0, atol=1e-5)
    assert torch.equal(blue, given[2])


def test_gamma_brings_an_even_picture_to_the_middle() -> None:
    torch.testing.assert_close(peers.gamma(torch.full((3, 4, 5), 0.1)), torch.full((3, 4, 5), 0.5))


def test_bm3d_is_called_as_its_package_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the package, which has a licence of its own, is not installed."""
    calls = []

    def bm3d_rgb(pixels: np.ndarray, sigma: float, profile: object) -> np.ndarray:
        calls.append((pixels, sigma, profile))
        return pixels * 3 - 1

    module = ModuleType("bm3d")

    def bm3d(pixels: np.ndarray, sigma: float, profile: object) -> np.ndarray:
        assert pixels.shape == (64, 80) and sigma == 0.2
        return pixels + 0.25

    module.bm3d, module.bm3d_rgb = bm3d, bm3d_rgb  # type: ignore[attr-defined]
    module.BM3DProfile = type("BM3DProfile", (), {"num_threads": 0})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bm3d", module)
    given = scene()
    restored = peers.bm3d(given, 51.0)
    ((pixels, sigma, profile),) = calls
    assert sigma == 0.2 and profile.num_threads == 1
    assert np.array_equal(pixels, given.permute(1, 2, 0).double().numpy())
    torch.testing.assert_close(restored, (given * 3 - 1).clamp(0, 1))
    # bm3d_rgb makes NaN of a picture without colours.
    grey = given[:1].expand(3, -1, -1) / 2
    torch.testing.assert_close(peers.bm3d(grey, 51.0), grey + 0.25)
    with pytest.raises(PictureError, match="needs 16 x 16 pixels, and the image has 80 x 15"):
        peers.bm3d(given[:, :15], 51.0)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("bm3d", "bm3d", r"peer:bm3d needs bm3d: pip install 'moceir\[peers\]'"),
        ("auto_levels", "skimage", r"needs scikit-image: pip install 'moceir\[eval\]'"),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=message):
        find_peer(name)


def test_what_a_peer_cannot_do_is_said() -> None:
    with pytest.raises(ConfigError, match="unknown peer 'bm4d': choose bm3d, "):
        find_method("peer:bm4d")
    for setting in ({"device": "cuda"}, {"precision": "float16"}):
        with pytest.raises(ConfigError, match="peer:gamma runs on the CPU"):
            find_method("peer:gamma", **setting)
    with pytest.raises(ConfigError, match="needs whole images"):
        find_method("peer:gamma").restore(scene(), None, 128)


def test_the_true_sigma_has_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", ModuleType("bm3d"))
    monkeypatch.setattr(peers, "version", lambda package: "0")
    with pytest.raises(ConfigError, match="needs to know sigma"):
        find_method("peer:bm3d_true_sigma").restore(scene(), None, None)
