"""Degradations: physics, determinism, validation and the text form."""

from __future__ import annotations

import io
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import moceir
from moceir.data import streaks
from moceir.data.degradations import (
    KINDS,
    Composition,
    DefocusBlur,
    Degradation,
    GaussianNoise,
    Haze,
    Jpeg,
    LowLight,
    MotionBlur,
    RainStreaks,
    Snow,
    degrade,
    generator_for,
    parse,
)
from moceir.pictures.pixels import to_image, to_tensor

EVERY = (*KINDS, "haze,rain,motion_blur,low_light,noise,jpeg")


def photo(height: int = 60, width: int = 75, batch: int = 1, seed: int = 0) -> Tensor:
    """Smooth colours, an edge and some texture, on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((batch, 3, 6, 7), generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images[..., width // 2 :] *= 0.6
    images += 0.05 * torch.randn(images.shape, generator=generator)
    return (images.clamp(0, 1) * 255).round() / 255


# --- What holds for every kind ---------------------------------------------------------------


@pytest.mark.parametrize("text", EVERY)
def test_deterministic_and_changed_by_the_seed(text: str) -> None:
    images = photo()
    before = images.clone()
    first = degrade(images, parse(text), seed=5)
    assert torch.equal(first, degrade(images, parse(text), seed=5))
    assert torch.equal(images, before)
    assert not torch.equal(first, images)
    if text not in ("motion_blur", "defocus_blur", "jpeg"):  # these draw nothing
        assert not torch.equal(first, degrade(images, parse(text), seed=6))


@pytest.mark.parametrize("text", EVERY)
def test_an_image_does_not_depend_on_its_batch_mates(text: str) -> None:
    images = photo(33, 41, batch=3)
    mixed = degrade(images, [parse("noise"), parse(text), parse("jpeg")], seed=2)
    other = images.clone()
    other[0], other[2] = 0, 1
    alone = degrade(other, [parse("rain"), parse(text), parse("haze")], seed=2)
    torch.testing.assert_close(mixed[1], alone[1], rtol=0, atol=0)


@pytest.mark.parametrize("text", ["noise", "rain", "haze", "low_light", "snow"])
def test_images_of_a_batch_have_different_random_fields(text: str) -> None:
    images = photo().expand(2, -1, -1, -1)
    for pair in (
        degrade(images, parse(text), seed=0),
        parse(text)(images, torch.Generator().manual_seed(0)),
    ):
        assert not torch.equal(pair[0], pair[1])
        change = (pair - images).square().mean((1, 2, 3))
        assert change.min() > 0.3 * change.max()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 5), (17, 2), (16, 16), (31, 50)])
@pytest.mark.parametrize("text", EVERY)
def test_any_size_stays_in_range(text: str, size: tuple[int, int]) -> None:
    for level in (0.0, 1.0):
        images = torch.full((2, 3, *size), level)
        degraded = degrade(images, parse(text), seed=1)
        assert degraded.shape == images.shape
        assert ((degraded >= 0) & (degraded <= 1)).all()  # false for NaN too


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_valid_parameters_stay_in_range(kind: str) -> None:
    single = type(parse(kind))
    for end in (0, 1):
        values = {p.name: p.metadata["valid"][end] for p in fields(single)}
        degraded = degrade(photo(9, 20), single(**values), seed=1)
        assert ((degraded >= 0) & (degraded <= 1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("text", EVERY)
def test_dtype_is_kept_and_the_arithmetic_is_float32(text: str, dtype: torch.dtype) -> None:
    images = photo(20, 24).to(dtype)
    degraded = degrade(images, parse(text), seed=1)
    assert degraded.dtype == dtype
    expected = degrade(images.float(), parse(text), seed=1)
    assert torch.equal(degraded, expected.to(dtype))


def test_autocast_does_not_reach_inside() -> None:
    images = photo(20, 24)
    plain = degrade(images, parse("defocus_blur,jpeg"), seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(degrade(images, parse("defocus_blur,jpeg"), seed=1), plain)


@pytest.mark.parametrize("text", EVERY)
def test_strided_input(text: str) -> None:
    images = photo(20, 24, batch=2)
    larger = torch.full((2, 3, 30, 30), math.nan)
    larger[:, :, 3:23, 2:26] = images
    view = larger[:, :, 3:23, 2:26]
    assert torch.equal(degrade(view, parse(text), 1), degrade(images, parse(text), 1))


def test_empty_batch() -> None:
    empty = torch.empty(0, 3, 8, 8)
    assert degrade(empty, parse("rain"), seed=0).shape == empty.shape
    assert parse("rain")(empty, torch.Generator()).shape == empty.shape


# --- Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        parse("noise")(torch.zeros(shape), torch.Generator())
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        degrade(torch.zeros(shape), parse("noise"), seed=0)


def test_wrong_dtype() -> None:
    with pytest.raises(TypeError, match="uint8"):
        degrade(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), parse("noise"), seed=0)
    with pytest.raises(TypeError, match="ndarray"):
        degrade(np.zeros((1, 3, 8, 8), np.float32), parse("noise"), seed=0)  # type: ignore[arg-type]


def test_one_degradation_per_image() -> None:
    with pytest.raises(ValueError, match=r"2 images .* got 3"):
        degrade(photo(8, 8, batch=2), [Jpeg()] * 3, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_validated(kind: str) -> None:
    single = type(parse(kind))
    for parameter in fields(single):
        low, high = parameter.metadata["valid"]
        for end in (low, high):
            assert getattr(single(**{parameter.name: end}), parameter.name) == end
        for bad in (low - 1, high + 1, math.nan, math.inf, "5", None, True):
            with pytest.raises(ValueError, match=f"{kind}: {parameter.name} must be"):
                single(**{parameter.name: bad})


def test_quality_is_an_integer() -> None:
    assert Jpeg(20.0).quality == 20  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quality must be an integer from 1 to 100"):
        Jpeg(20.5)  # type: ignore[arg-type]


def test_composition_is_made_of_degradations() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Composition(())
    with pytest.raises(TypeError, match="'rain'"):
        Composition(("rain",))  # type: ignore[arg-type]


# --- Text ------------------------------------------------------------------------------------


def test_parse_defaults_and_parameters() -> None:
    assert parse("rain,haze") == Composition((RainStreaks(), Haze()))
    assert parse(" noise : sigma = 50 , jpeg:quality=10") == Composition(
        (GaussianNoise(sigma=50), Jpeg(quality=10))
    )
    assert parse("snow:size=4:opacity=0.5") == Snow(size=4, opacity=0.5)


@pytest.mark.parametrize("text", EVERY)
def test_text_round_trip(text: str) -> None:
    assert parse(str(parse(text))) == parse(text)


def test_text_of_a_nested_composition() -> None:
    nested = Composition((Composition((Haze(), Snow())), Jpeg()))
    assert parse(str(nested)) == nested == Composition((Haze(), Snow(), Jpeg()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blur", "unknown degradation 'blur'; valid: noise, rain, haze, .*jpeg"),
        ("", "unknown degradation ''; valid: noise"),
        ("rain,", "unknown degradation ''; valid: noise"),
        ("rain:wetness=3", "rain: .* density, length, width, angle, intensity, got 'wetness=3'"),
        ("noise:25", "noise: .*sigma, got '25'"),
        ("noise:sigma", "noise: .*sigma, got 'sigma'"),
        ("noise:sigma=loud", "noise: sigma must be a number, got 'loud'"),
        ("noise:sigma=1:sigma=2", "noise: sigma is given twice"),
        ("noise:sigma=101", "noise: sigma must be a number from 0 to 100, got 101"),
        ("jpeg:quality=9.5", "jpeg: quality must be an integer from 1 to 100, got 9.5"),
    ],
)
def test_parse_says_what_is_valid(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_generators_of_different_seeds_and_indices_differ() -> None:
    pairs = [(seed, index) for seed in (-1, 0, 1, 2, 2**40) for index in range(20)]
    first = {
        torch.rand(1, generator=generator_for(*pair), dtype=torch.float64).item() for pair in pairs
    }
    assert len(first) == len(pairs)


# --- Physics ---------------------------------------------------------------------------------


def test_order_matters() -> None:
    images = photo()
    bright_noise = degrade(images, parse("low_light,noise"), seed=0)
    dark_noise = degrade(images, parse("noise,low_light"), seed=0)
    assert (bright_noise - dark_noise).abs().mean() > 0.02


def test_composition_is_one_after_the_other() -> None:
    images = photo()
    generator = torch.Generator().manual_seed(3)
    expected = Jpeg(30)(Haze()(images, generator), generator)
    composed = Composition((Haze(), Jpeg(30)))(images, torch.Generator().manual_seed(3))
    assert torch.equal(composed, expected)


@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_noise_has_its_standard_deviation(sigma: float) -> None:
    grey = torch.full((1, 3, 128, 128), 128 / 255)
    noise = (degrade(grey, GaussianNoise(sigma), seed=0) - grey) * 255
    clipped = 1 if sigma < 50 else 0.98
    assert noise.std().item() == pytest.approx(sigma * clipped, rel=0.02)
    # Truncation to 8 bits takes half a level on average.
    assert noise.mean().item() == pytest.approx(-0.5, abs=0.02 * sigma)
    torch.testing.assert_close(noise, noise.round(), rtol=0, atol=1e-4)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert abs(neighbours.item()) < 0.02


@pytest.mark.parametrize(
    "nothing",
    [
        GaussianNoise(sigma=0),
        RainStreaks(density=0),
        RainStreaks(intensity=0),
        Haze(beta=0),
        MotionBlur(length=1),
        LowLight(exposure=0, gamma=1, noise_sigma=0),
        Snow(density=0),
        Snow(opacity=0),
    ],
    ids=str,
)
def test_zero_strength_is_the_identity(nothing: Degradation) -> None:
    images = photo(batch=2)
    torch.testing.assert_close(degrade(images, nothing, seed=0), images, rtol=0, atol=1e-5)


def test_thick_haze_is_airlight() -> None:
    hazy = degrade(photo(), Haze(beta=1000, airlight=0.8), seed=0)
    torch.testing.assert_close(hazy, torch.full_like(hazy, 0.8), rtol=0, atol=1e-5)


def test_haze_follows_the_scattering_equation() -> None:
    # The same seed gives the same depth: black and white pictures show airlight and transmission.
    black = degrade(torch.zeros(1, 3, 64, 64), Haze(beta=1.5, airlight=0.9), seed=4)
    white = degrade(torch.ones(1, 3, 64, 64), Haze(beta=1.5, airlight=0.9), seed=4)
    transmission = white - black
    torch.testing.assert_close(black, 0.9 * (1 - transmission), rtol=0, atol=1e-5)
    assert math.exp(-1.5) - 1e-5 <= transmission.min() < transmission.max() <= 1
    thicker = degrade(torch.ones(1, 3, 64, 64), Haze(beta=3, airlight=0.0), seed=4)
    torch.testing.assert_close(thicker, transmission**2, rtol=0, atol=1e-5)
    # Smooth, and the same for all three colours.
    assert transmission.diff(dim=-1).abs().max() < 0.05
    assert torch.equal(transmission[:, 0], transmission[:, 2])


def test_haze_is_thicker_at_the_top() -> None:
    hazy = degrade(torch.zeros(20, 3, 32, 32), Haze(), seed=0)
    assert (hazy[:, :, :8].mean((1, 2, 3)) > hazy[:, :, -8:].mean((1, 2, 3))).float().mean() > 0.8


@pytest.mark.parametrize(
    "blur",
    [MotionBlur(3), MotionBlur(9.5, 77), MotionBlur(31, -45), DefocusBlur(0.5), DefocusBlur(8)],
    ids=str,
)
def test_blur_kernels(blur: MotionBlur | DefocusBlur) -> None:
    kernel = blur.kernel()
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
    assert (kernel >= 0).all()
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))  # no shift
    for level in (0.02, 0.5, 1.0):
        flat = torch.full((1, 3, 7, 12), level)
        torch.testing.assert_close(degrade(flat, blur, seed=0), flat, rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [3, 9, 31])
def test_motion_blur_has_its_length_and_angle(length: float) -> None:
    kernel = MotionBlur(length, angle=0).kernel()
    middle = kernel.shape[0] // 2
    assert kernel[middle].sum().item() == pytest.approx(1, abs=1e-5)
    assert int((kernel[middle] > 0).sum()) == length
    # A uniform line of this many pixels has this variance, whatever its direction.
    offset = torch.arange(-middle, middle + 1.0)
    assert (kernel[middle] * offset**2).sum().item() == pytest.approx((length**2 - 1) / 12, 1e-4)
    # 45 degrees anticlockwise is up on the right.
    diagonal = MotionBlur(length, angle=45).kernel()
    rows = torch.arange(diagonal.shape[0]) - diagonal.shape[0] // 2
    assert (diagonal * rows[:, None] * rows).sum() < 0


@pytest.mark.parametrize("size", [(40, 30), (4, 3), (1, 2), (1, 1)])
def test_blur_mirrors_the_borders(size: tuple[int, int]) -> None:
    images = photo(*size)
    blur = DefocusBlur(8)
    reach = 20
    mirrored = np.pad(images.numpy(), ((0, 0), (0, 0), (reach, reach), (reach, reach)), "reflect")
    expected = degrade(torch.from_numpy(mirrored), blur, seed=0)[..., reach:-reach, reach:-reach]
    torch.testing.assert_close(degrade(images, blur, seed=0), expected, rtol=0, atol=1e-5)


def test_defocus_radius() -> None:
    for radius in (1.0, 2.0, 5.5):
        kernel = DefocusBlur(radius).kernel()
        # A disk of even brightness: its peak is one over its area.
        assert 1 / kernel.max().item() == pytest.approx(math.pi * radius**2, rel=0.15)


def test_blur_averages_light() -> None:
    # Half black and half white reflect as much light as an encoded grey of 188, not of 128.
    stripes = torch.zeros(1, 3, 33, 64)
    stripes[..., ::2] = 1
    blurred = degrade(stripes, DefocusBlur(8), seed=0)[..., 16, 20:44] * 255
    torch.testing.assert_close(blurred, torch.full_like(blurred, 188), rtol=0, atol=3)


def test_exposure_is_in_stops_of_linear_light() -> None:
    # sRGB code values of 80 %, 40 % and 10 % linear light.
    bright, half, eighth = 0.9063, 0.6652, 0.3492
    image = torch.full((1, 3, 4, 4), bright)
    one = degrade(image, LowLight(exposure=-1, gamma=1, noise_sigma=0), seed=0)
    three = degrade(image, LowLight(exposure=-3, gamma=1, noise_sigma=0), seed=0)
    curved = degrade(image, LowLight(exposure=-3, gamma=2, noise_sigma=0), seed=0)
    assert one.mean().item() == pytest.approx(half, abs=2e-3)
    assert three.mean().item() == pytest.approx(eighth, abs=2e-3)
    assert curved.mean().item() == pytest.approx(eighth**2, abs=2e-3)
    noisy = degrade(torch.full((1, 3, 64, 64), bright), LowLight(noise_sigma=5), seed=0)
    assert noisy.std().item() * 255 == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("falling", [RainStreaks(), Snow()], ids=str)
def test_rain_and_snow_only_brighten_part_of_the_picture(falling: Degradation) -> None:
    images = photo(128, 128)
    layer = degrade(images, falling, seed=0) - images
    assert layer.min() >= -1e-6
    covered = (layer > 0.05).any(dim=1).float().mean().item()
    assert 0.03 < covered < 0.5
    assert layer.max() > 0.3
    white = torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(degrade(white, falling, seed=0), white)


@pytest.mark.parametrize("kind", [RainStreaks, Snow])
def test_density_is_per_megapixel(kind: type[RainStreaks | Snow]) -> None:
    dark = torch.zeros(1, 3, 256, 256)
    few = degrade(dark, kind(density=200), seed=0).mean().item()
    many = degrade(dark, kind(density=800), seed=0).mean().item()
    assert many == pytest.approx(4 * few, rel=0.35)
    # Most borders of a small picture are crossed, as by rain that falls everywhere.
    corner = degrade(torch.zeros(1, 3, 128, 128), kind(density=5000), seed=0)
    edge = torch.cat((corner[..., :8, :].flatten(), corner[..., :8].flatten())).mean().item()
    assert edge == pytest.approx(corner.mean().item(), rel=0.6)


@pytest.mark.parametrize(
    "falling",
    [
        lambda angle: RainStreaks(density=2000, length=30, angle=angle),
        lambda angle: Snow(density=2000, size=3, streak=60, angle=angle),
    ],
    ids=["rain", "snow"],
)
def test_angle_of_fall(falling) -> None:  # type: ignore[no-untyped-def]
    def likeness(angle: float, dx: int) -> float:
        """Correlation of the layer with itself 8 rows below and ``dx`` columns to the right."""
        layer = degrade(torch.zeros(1, 3, 160, 160), falling(angle), seed=0)[0, 0]
        a = layer[:-8, 8:-8]
        b = layer[8:, 8 + dx : 152 + dx]
        return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()

    assert likeness(45, 8) > likeness(45, -8) + 0.1
    assert likeness(-45, -8) > likeness(-45, 8) + 0.1
    assert likeness(0, 0) > likeness(0, 8) + 0.1


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("size", [(64, 80), (37, 53)])
def test_jpeg_agrees_with_libjpeg(quality: int, size: tuple[int, int]) -> None:
    images = photo(*size)
    pixels = (images[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.asarray(Image.open(file)).astype(np.float32)
    ours = (degrade(images, Jpeg(quality), seed=0)[0].permute(1, 2, 0) * 255).numpy()
    # What remains is libjpeg's fixed-point rounding, now and then across a quantisation step.
    assert np.abs(ours - decoded).mean() < 0.5
    assert np.abs(decoded - pixels).mean() > 2


def test_jpeg_gets_worse_with_lower_quality() -> None:
    images = photo()
    errors = [
        (degrade(images, Jpeg(quality), seed=0) - images).abs().mean().item()
        for quality in (95, 60, 30, 10, 3)
    ]
    assert errors == sorted(errors)


@pytest.mark.parametrize("text", ["rain", "snow"])
def test_drawing_in_parts_changes_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = degrade(photo(), parse(text), seed=0)
    monkeypatch.setattr(streaks, "_MAX_POINTS", 5000)
    assert torch.equal(degrade(photo(), parse(text), seed=0), whole)


def test_a_file_is_degraded_as_its_pixels_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", dpi=(300, 300))
    notes = moceir.degrade_file(str(tmp_path / "a.png"), tmp_path / "b.png", "haze,noise", seed=3)
    with Image.open(tmp_path / "b.png") as degraded:
        expected = degrade(to_tensor(Image.fromarray(pixels))[None], parse("haze,noise"), 3)[0]
        assert np.array_equal(np.asarray(degraded), np.asarray(to_image(expected)))
        assert [round(value) for value in degraded.info["dpi"]] == [300, 300] and notes == []
    with pytest.raises(FileExistsError, match=r"b\.png"):
        moceir.degrade_file(tmp_path / "a.png", tmp_path / "b.png", parse("noise"))
    with pytest.raises(ValueError, match="unknown degradation 'rian'"):
        moceir.degrade_file(tmp_path / "a.png", tmp_path / "c.png", "rian")
    assert not (tmp_path / "c.png").exists()
