"""The batched degradations: what they depend on, what they cost, and their physics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moceir.data import synthesis
from moceir.data.counter import Draw
from moceir.data.degradations import KINDS, Jpeg
from moceir.data.synthesis import STAGES, STRENGTHS, Recipe, at, blur, degrade, draw, fall, sensor
from moceir.data.synthesis.plan import stages
from moceir.data.synthesis.stage import run

NUMBERS = np.arange(40, 56)


def photos(n: int = 16, side: int = 48, seed: int = 0) -> Tensor:
    """(n, 3, side, side) uint8: smooth colours, an edge and some texture."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 3, 6, 6), generator=generator)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    images[..., side // 2 :] *= 0.6
    images += 0.03 * torch.randn(images.shape, generator=generator)
    return (images.clamp(0, 1) * 255).round().byte()


def grey(level: float, n: int = 16, side: int = 64) -> Tensor:
    return torch.full((n, 3, side, side), float(level))


def decibels(degraded: Tensor, clean: Tensor) -> Tensor:
    error = (degraded - clean.float() / 255).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def everything(n: int = 32, seed: int = 3) -> Recipe:
    recipe, _ = draw(seed, range(100, 100 + n), max_mixture=3, clean=0.06)
    assert (recipe.strength > 0).any(0).all(), "a batch with every kind"
    return recipe


def part(recipe: Recipe, chosen: np.ndarray) -> Recipe:
    return Recipe(recipe.seed, recipe.numbers[chosen], recipe.strength[chosen])


# --- What a patch depends on -----------------------------------------------------------------


def test_a_patch_is_the_same_alone_and_in_any_batch() -> None:
    images, recipe = photos(32), everything()
    whole = degrade(images, recipe)
    assert torch.equal(whole, degrade(images, recipe))
    for i in range(32):
        alone = degrade(images[i : i + 1], part(recipe, np.asarray([i])))
        assert torch.equal(alone[0], whole[i]), recipe.kinds()[i]
    shuffled = np.random.default_rng(0).permutation(32)[:11]
    assert torch.equal(degrade(images[shuffled], part(recipe, shuffled)), whole[shuffled])


def test_recipes_are_functions_of_seed_and_number() -> None:
    arguments = {"max_mixture": 3, "clean": 0.1}
    whole, labels = draw(7, range(1000, 1064), **arguments)
    for i in (0, 13, 63):
        alone, label = draw(7, [1000 + i], **arguments)
        assert np.array_equal(alone.strength[0], whole.strength[i]) and label == [labels[i]]
    assert not np.array_equal(draw(8, range(1000, 1064), **arguments)[0].strength, whole.strength)
    assert draw(7, [10**15], **arguments)[0].strength.shape == (1, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_of_other_numbers_and_seeds_differ(kind: str) -> None:
    images = photos(1).expand(8, -1, -1, -1)
    made = degrade(images, at(kind, "strong", range(8)))
    different = len({patch.numpy().tobytes() for patch in made})
    assert different == 8 or (kind == "jpeg" and different > 2)  # most are in one file of 4:2:0
    assert not torch.equal(made, degrade(images, at(kind, "strong", range(8), seed=1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 16), (50, 31)])
def test_any_size_and_any_strength(kind: str, size: tuple[int, int]) -> None:
    for level in (0, 255):
        images = torch.full((6, 3, *size), level, dtype=torch.uint8)
        for strength in (1e-9, 0.5, 1):
            made = degrade(images, at(kind, strength, range(6)))
            assert made.shape == images.shape and made.dtype == torch.float32
            assert ((made >= 0) & (made <= 1)).all()  # false for NaN too


def test_values_have_8_bits_and_the_input_stays() -> None:
    for images in (photos(), photos().float() / 255, (photos() / 255.0).bfloat16()):
        before = images.clone()
        made = degrade(images, at("noise,rain,jpeg", "medium", NUMBERS))
        assert torch.equal(images, before)
        assert torch.equal(made, (made * 255).round() / 255)
    of_bytes = degrade(photos(), at("haze", "medium", NUMBERS))
    assert torch.equal(of_bytes, degrade(photos().float() / 255, at("haze", "medium", NUMBERS)))


def test_autocast_does_not_reach_inside() -> None:
    images, recipe = photos(32), everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(degrade(images, recipe), degrade(images, recipe))
        inside = degrade(images, recipe)
    assert torch.equal(inside, degrade(images, recipe))


def test_two_kinds_of_one_stage_on_one_patch() -> None:
    images = photos()
    both = degrade(images, at("rain,snow", "medium", NUMBERS))
    rain = degrade(images, at("rain", "medium", NUMBERS))
    then = degrade(rain, at("snow", "medium", NUMBERS))
    torch.testing.assert_close(both, then, rtol=0, atol=2.1 / 255)  # of the rounding in between


def test_an_empty_batch() -> None:
    assert degrade(photos()[:0], at("rain", "medium", [])).shape == (0, 3, 48, 48)


# --- What it costs ---------------------------------------------------------------------------


class Launches(TorchDispatchMode):
    """Counts the operators that launch something on a device: all but views and allocations."""

    FREE = frozenset(
        ("view", "_unsafe_view", "_reshape_alias", "expand", "permute", "transpose", "t", "slice",
         "select", "unbind", "split", "split_with_sizes", "unsqueeze", "squeeze", "as_strided",
         "alias", "detach", "lift_fresh", "empty", "empty_like", "new_empty")
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__
        if name not in self.FREE:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def test_a_batch_takes_at_most_200_launches() -> None:
    images = photos(32, 128)
    degrade(images, everything())  # tables are made once
    counts = []
    for seed in range(8):
        recipe, _ = draw(seed, range(32), max_mixture=3, clean=0.06)
        with Launches() as launches:
            degrade(images, recipe)
        assert not {"_local_scalar_dense", "nonzero"} & {*launches.names}
        counts.append(len(launches.names))
    assert max(counts) <= 200, counts


def test_nothing_is_read_from_the_device() -> None:
    """Meta tensors have no values: to read one, or to need one for a shape, is an error."""
    images = torch.empty(32, 3, 128, 128, device="meta")
    with pytest.raises(RuntimeError):
        images.max().item()
    made = run(images, stages(everything(), (128, 128)))
    assert made.is_meta and made.shape == images.shape


# --- Strengths -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_is_the_picture(kind: str) -> None:
    images = photos()
    assert torch.equal(degrade(images, at(kind, 0, NUMBERS)), images.float() / 255)


@pytest.mark.parametrize("kind", ["noise", "motion_blur", "defocus_blur"])
def test_the_least_strength_is_not_seen(kind: str) -> None:
    assert decibels(degrade(photos(), at(kind, 1e-9, NUMBERS)), photos()).min() > 40


@pytest.mark.parametrize(("kind", "most"), [("rain", 0.02 * 1.3), ("snow", 0.03 * 1.35)])
def test_the_least_that_falls_is_its_opacity_and_its_veil(kind: str, most: float) -> None:
    made = degrade(photos(), at(kind, 1e-9, NUMBERS))
    assert (made - photos() / 255.0).abs().max() < most + 0.5 / 255


@pytest.mark.parametrize("kind", KINDS)
def test_stronger_is_worse(kind: str) -> None:
    levels = [decibels(degrade(photos(), at(kind, s, NUMBERS)), photos()) for s in STRENGTHS]
    slight, medium, strong = (float(level.median()) for level in levels)
    assert slight > medium + 1 > strong + 2  # dB


def test_every_strength_is_drawn_alike() -> None:
    recipe, _ = draw(0, range(4000), clean=0.0)
    drawn = recipe.strength[:, KINDS.index("haze")]
    drawn = drawn[drawn > 0]
    assert np.histogram(drawn, 4, (0, 1))[0].min() > 0.2 * len(drawn)


# --- Recipes ---------------------------------------------------------------------------------


def test_kinds_are_taken_in_turn() -> None:
    kinds = ["noise", "haze", "jpeg", "jpeg"]
    _, labels = draw(0, range(24), kinds)
    rounds = [labels[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(one) == ["haze", "jpeg", "jpeg", "noise"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_mixtures_have_one_kind_of_each_stage() -> None:
    kinds = tuple(kind for kind in KINDS if kind != "noise")
    recipe, labels = draw(1, range(2000), kinds, max_mixture=3, mixed=0.5, clean=0.06)
    counts = [0, 0, 0, 0]
    for present, label in zip(recipe.kinds(), labels, strict=True):
        counts[len(present)] += 1
        stage = [next(s for s, members in enumerate(STAGES) if k in members) for k in present]
        assert len(set(stage)) == len(stage)
        assert (label == synthesis.SEVERAL) == (len(present) > 1)
        assert len(present) != 1 or label == present[0]
    assert 0.045 < counts[0] / 2000 < 0.075
    assert 0.42 < counts[1] / 2000 < 0.52
    assert 0.19 < counts[2] / 2000 < 0.28 and 0.19 < counts[3] / 2000 < 0.28


def test_noise_comes_from_a_file_now_and_then() -> None:
    recipe, labels = draw(2, range(1000), ["noise"])
    assert {*labels} == {"noise"}
    quality = recipe.strength[:, KINDS.index("jpeg")]
    assert 0.15 < (quality > 0).mean() < 0.25 and quality.max() <= 0.6


def test_only_the_kinds_asked_for() -> None:
    recipe, _ = draw(2, range(200), ["rain", "snow"], max_mixture=3)
    assert {kind for present in recipe.kinds() for kind in present} == {"rain", "snow"}
    assert all(len(present) == 1 for present in recipe.kinds())  # of one stage


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw(0, [0], []), "kinds must be some of noise, rain"),
        (lambda: draw(0, [0], ["fog"]), r"got \['fog'\]"),
        (lambda: draw(0, [0], max_mixture=0), "max_mixture must be at least 1"),
        (lambda: at("fog", 1, [0]), "unknown degradation 'fog'; valid: noise"),
        (lambda: at("rain", "weak", [0]), "slight, medium, strong .* got 'weak'"),
        (lambda: at("rain", 1.5, [0]), "from 0 to 1, got 1.5"),
        (lambda: at("rain", math.nan, [0]), "from 0 to 1, got nan"),
        (lambda: degrade(photos(2), at("rain", 1, [0])), "2 images, but a recipe for 1"),
        (lambda: degrade(photos(2)[:, :1], at("rain", 1, [0, 1])), r"\(B, 3, H, W\)"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
    with pytest.raises(TypeError, match="int64"):
        degrade(photos(1).long(), at("rain", 1, [0]))


# --- Physics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.5, 0.7])
def test_noise_on_code_values_has_its_standard_deviation(strength: float) -> None:
    recipe = at("noise", strength, range(60))
    (stage,) = [s for s in stages(recipe, (64, 64)) if s.apply is sensor.flat]
    noise = degrade(grey(128 / 255, 60), recipe)[stage.members] - 128 / 255
    expected = 0.5 * 150**strength / 255
    # Rounding adds the variance of a uniform level.
    expected = math.hypot(expected, 12**-0.5 / 255)
    measured = noise.square().mean((2, 3)).mean(1).sqrt()
    assert len(measured) > 20
    torch.testing.assert_close(measured, torch.full_like(measured, expected), rtol=0.06, atol=0)
    assert noise.mean().abs() < 0.02 * expected
    same = (noise[:, 0] == noise[:, 1]).flatten(1).all(1).float().mean()
    assert 0.05 < same < 0.4  # grey noise
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean((1, 2, 3)) / noise.square().mean((1, 2, 3))
    assert ((neighbours.abs() < 0.07) | (neighbours > 0.13)).all()
    assert 0.05 < (neighbours > 0.13).float().mean() < 0.4


def test_camera_noise_follows_the_light() -> None:
    """Its variance in linear light is shot x light + read, at the samples of the pattern."""
    given = sensor.camera(Draw(0, np.arange(200), 0, np.full(200, 0.7)))
    plain = np.flatnonzero(~given["bayer"])[:16]
    chosen = {name: values[plain] for name, values in given.items()}
    stage = sensor.plan_raw(np.arange(16), chosen)
    tensors = {name: torch.from_numpy(a) for name, a in stage.arrays.items()}
    for level in (0.2, 0.6):
        fields = torch.randint(
            0, 65536, (16, 3, 64, 64), generator=torch.Generator().manual_seed(1)
        )
        noisy = stage.apply(grey(level), fields=fields.int(), **tensors)
        light = sensor.to_linear(torch.tensor(level))
        expected = torch.from_numpy(chosen["shot"] * light.item() + chosen["read"]).float()
        measured = (sensor.to_linear(noisy) - light).square().mean((2, 3))
        torch.testing.assert_close(measured, expected, rtol=0.1, atol=0)


def test_the_bayer_pattern_fills_in_means() -> None:
    """Noise that is 1 everywhere stays 1: every missing sample is a mean of samples."""
    given = sensor.camera(Draw(0, np.arange(50), 0, np.full(50, 0.5)))
    one = {name: values[given["bayer"]][:1] for name, values in given.items()}
    one |= {"shot": np.zeros((1, 3)), "read": np.full((1, 3), 0.01)}
    stage = sensor.plan_raw(np.arange(1), one)
    tensors = {name: torch.from_numpy(a) for name, a in stage.arrays.items()}
    # The table's value nearest to 1.
    fields = torch.full((1, 3, 16, 16), round(65536 * 0.8413447), dtype=torch.int32)
    noisy = sensor.to_linear(stage.apply(grey(0.3, 1, 16), fields=fields, **tensors))
    inner = (noisy - sensor.to_linear(torch.tensor(0.3)))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("strength", [0.1, 0.4])
def test_darkness_is_in_stops_of_light(strength: float) -> None:
    made = degrade(grey(0.9, 64), at("low_light", strength, range(64)))
    light = sensor.to_linear(made).mean((1, 2, 3)) / sensor.to_linear(torch.tensor(0.9))
    stops = light.log2().median().item()
    assert stops == pytest.approx(-(0.3 + 6.7 * strength), abs=0.25)


def test_haze_follows_the_scattering_equation() -> None:
    """Black and white pictures, which differ in their pieces alone, show airlight and depth."""
    strength, n = 0.8, 64
    recipe = at("haze", strength, range(n))
    (stage,) = stages(recipe, (64, 64))
    colour = torch.from_numpy(stage.arrays["airlight"])
    first = stage.apply.keywords["linear"]  # type: ignore[attr-defined]
    linear = (torch.arange(n) < first).float()[:, None, None, None]
    black, white = (degrade(grey(level, n), recipe)[stage.members] for level in (0, 1))
    black, white = (torch.lerp(p, p.square(), linear) for p in (black, white))
    beta = torch.where(linear == 1, 0.005 * 500**strength, 0.05 * 50**strength)
    assert (black <= colour + 0.005).all()
    flat = torch.from_numpy((stage.arrays["lattice"] == 1).all((1, 2, 3)))
    assert 0.15 < flat.float().mean() < 0.45
    transmission = (white - black)[flat]
    # Half a level of a square is at most one level, and there are two.
    expected = (-beta[flat]).exp().expand_as(transmission)
    torch.testing.assert_close(transmission, expected, rtol=0, atol=2.01 / 255)
    # As many pictures are hazier below as are above, but for those of the usual scene.
    depth = torch.from_numpy(stage.arrays["lattice"])[~flat]
    upper, lower = depth[..., :16, :].mean((1, 2, 3)), depth[..., 17:, :].mean((1, 2, 3))
    assert 0.55 < (upper > lower).float().mean() < 0.9
    assert (colour.where(linear == 0, colour.sqrt()) >= 0.5).all()


@pytest.mark.parametrize("make", [blur.motion, blur.defocus])
def test_blurs_keep_light_and_place(make: object) -> None:
    for strength in (1e-9, 0.5, 1):
        kernel = make(Draw(0, np.arange(64), 0, np.full(64, strength)))["kernel"]  # type: ignore[operator]
        assert kernel.shape == (64, 49, 49) and (kernel >= 0).all()
        np.testing.assert_allclose(kernel.sum((1, 2)), 1)
        offset = np.arange(-24, 25)
        centre = [(kernel.sum(axis) * offset).sum(1) for axis in (1, 2)]
        assert np.abs(centre).max() < (0.35 if strength < 1 else 1.5)


def test_a_blur_is_the_convolution() -> None:
    images = photos(4, 40).float() / 255
    given = blur.defocus(Draw(0, np.arange(40), 0, np.full(40, 0.8)))
    chosen = np.flatnonzero((given["mask"] == 1).all((1, 2)) & ~given["linear"])[:4]
    stage = blur.plan(np.arange(4), {n: v[chosen] for n, v in given.items()}, (40, 40))
    tensors = {name: torch.from_numpy(a) for name, a in stage.arrays.items()}
    made = stage.apply(images, **tensors)
    for i in range(4):
        kernel = torch.from_numpy(given["kernel"][chosen[i]]).float()
        mirrored = torch.nn.functional.pad(images[i : i + 1], [24] * 4, mode="reflect")
        # conv2d correlates.
        weight = kernel.flip(0, 1).expand(3, 1, -1, -1)
        expected = torch.nn.functional.conv2d(mirrored, weight, groups=3)
        torch.testing.assert_close(made[i : i + 1], expected, rtol=0, atol=1e-5)


def test_rain_is_added_or_laid_over() -> None:
    draws = fall.rain(Draw(0, np.arange(400), 0, np.full(400, 0.8)))
    assert 0.5 < draws["screened"].mean() < 0.7
    assert draws["length"][:, 0].min() >= 8 * 0.8 and draws["length"].max() <= 120 * 1.2
    shown = draws["share"] > 0
    assert {*shown.sum(1)} == {1, 2, 3}
    recipe = at("rain", "strong", range(64))
    black, white = (degrade(grey(level, 64), recipe) for level in (0, 1))
    assert (black.amax((1, 2, 3)) > 0.1).float().mean() > 0.9  # streaks on black
    darker = (white.amin((1, 2, 3)) < 0.98).float().mean()
    assert 0.4 < darker <= 1  # laid over white, or a veil; added rain does not show


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_what_falls_is_as_dense_everywhere(kind: str) -> None:
    """No edge of a patch has fewer streaks than its middle."""
    black = degrade(grey(0, 256), at(kind, "strong", range(256))).mean((0, 1))
    edge = torch.cat((black[:4].flatten(), black[-4:].flatten(), black[:, :4].flatten()))
    assert edge.mean() == pytest.approx(black[16:48, 16:48].mean().item(), rel=0.1)


def test_jpeg_is_the_file_of_its_quality() -> None:
    """Those patches that were in one file of 4:2:0 are what ``Jpeg`` makes of them."""
    images = photos(32, 64)
    for strength in (1e-9, 0.6, 1):
        recipe = at("jpeg", strength, range(32))
        (stage,) = stages(recipe, (64, 64))
        coarse, first = stage.apply.keywords["coarse"], stage.apply.keywords["first"]  # type: ignore[attr-defined]
        once = stage.members[: min(coarse, first)]
        assert len(once) > 5
        scale = 10 * 62.5**strength
        quality = round((200 - scale) / 2 if scale < 100 else 5000 / scale)
        expected = Jpeg(quality)(images[once] / 255.0, torch.Generator())
        torch.testing.assert_close(degrade(images, recipe)[once], expected, rtol=0, atol=1e-6)


def test_fine_chroma_keeps_colour_edges() -> None:
    """A one-pixel red and blue pattern survives 4:4:4 at quality 95 and not 4:2:0."""
    pattern = torch.zeros(32, 3, 32, 32)
    pattern[:, 0, :, ::2] = pattern[:, 2, :, 1::2] = 0.8
    recipe = at("jpeg", 1e-9, range(32))
    (stage,) = stages(recipe, (32, 32))
    coarse = stage.apply.keywords["coarse"]  # type: ignore[attr-defined]
    error = (degrade(pattern, recipe) - pattern).abs().mean((1, 2, 3))[stage.members]
    assert error[:coarse].min() > 0.15 and error[coarse:].median() < 0.03


# --- On a GPU --------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_and_is_not_waited_for() -> None:
    images, recipe = photos(32, 128), everything()
    expected = degrade(images, recipe)
    there = images.cuda()
    degrade(there, recipe)  # tables and plans are made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = degrade(there, recipe)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (made.cpu() - expected).abs() * 255
    # A value at the edge between two levels may come to either; before a JPEG file that may change
    # a coefficient, and with it a block.
    assert (difference > 1.5).float().mean() < 1e-3
    assert (difference > 0.5).float().mean() < 1e-2
