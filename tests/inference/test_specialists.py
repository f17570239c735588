"""The bundled specialists, of which each photo goes through those that it needs."""

from __future__ import annotations

import itertools
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from moceir import MoCEIR, MoCEIRConfig, Restorer, load_model
from moceir.data import synthesis
from moceir.data.kinds import KINDS
from moceir.errors import ConfigError, PictureError, TooLittleMemory, WeightsError
from moceir.evaluation.cost import measure_cost
from moceir.evaluation.metrics import psnr
from moceir.evaluation.routes import route_of
from moceir.inference import specialists
from moceir.inference.canvas import Canvas
from moceir.inference.selection import BufferedCanvas
from moceir.inference.specialists import PLACES, SIDE, _along, _places
from moceir.weights.bundled import BUNDLED, SPECIALISTS, TOGETHER
from tests.browser import SAMPLE

CLEAN = SAMPLE.parent / "clean"


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer(device="cpu")


@pytest.fixture(scope="module")
def alone() -> dict[str, Restorer]:
    return {name: Restorer(name, "cpu") for name in BUNDLED}


def photo(name: str = "casa-mila", side: int = 128) -> Tensor:
    """(1, 3, side, side) uint8."""
    image = Image.open(CLEAN / f"{name}.png").convert("RGB")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.array(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def degraded(
    kind: str, strength: str = "medium", name: str = "casa-mila", side: int = 128
) -> Tensor:
    images = synthesis.degrade(photo(name, side), synthesis.at(kind, strength, [1]))
    return (images * 255).round() / 255


def test_every_kind_has_one_specialist() -> None:
    assert sorted(kind for kinds in SPECIALISTS.values() for kind in kinds) == sorted(KINDS)
    # What happened last is undone first, but for noise and JPEG.
    stage = {kind: i for i, kinds in enumerate(synthesis.STAGES) for kind in kinds}
    noise, jpeg, *order = ({stage[kind] for kind in kinds} for kinds in SPECIALISTS.values())
    assert (noise, jpeg) == ({stage["noise"]}, {stage["jpeg"]})
    assert all(min(a) > max(b) for a, b in itertools.pairwise(order))


@pytest.mark.parametrize("kind", ["noise", "jpeg", "low_light", "rain", "haze"])
def test_it_finds_what_is_wrong_and_does_better_than_one_network(
    restorer: Restorer, alone: dict[str, Restorer], kind: str
) -> None:
    (name,) = (name for name, kinds in SPECIALISTS.items() if kind in kinds)
    gains, of_one = [], []
    for picture in ("casa-mila", "lake-sherburne", "roman-colosseum"):
        given, clean = degraded(kind, "strong", picture, 256), photo(picture, 256)[0] / 255
        pixels = (given[0].permute(1, 2, 0) * 255).round().byte().numpy()
        better, run = restorer.restore_pixels(pixels)
        assert run.found is not None and set(run.found) & set(SPECIALISTS[name])
        before = psnr(given[0], clean)
        gains.append(psnr(torch.from_numpy(better).permute(2, 0, 1) / 255, clean) - before)
        of_one.append(psnr(alone["compact"](given)[0], clean) - before)
    assert sum(gains) > max(sum(of_one), 3)


@pytest.mark.parametrize("name", ["casa-mila", "tea-gardens", "the-spices-of-life"])
def test_clean_photos_stay(restorer: Restorer, name: str) -> None:
    pixels = np.array(Image.open(CLEAN / f"{name}.png").convert("RGB"))
    result, run = restorer.restore_pixels(pixels)
    assert run.found == () and run.tile_experts == ()
    assert run.notes == ("found nothing to remove: left as it is",)
    assert np.array_equal(result, pixels)


def test_only_is_the_specialist(restorer: Restorer, alone: dict[str, Restorer]) -> None:
    given = degraded("noise")
    assert torch.equal(restorer(given, only="noise"), alone["noise"](given))
    assert torch.equal(restorer(given, only="snow"), alone["weather"](given))


def test_one_after_the_other(restorer: Restorer, alone: dict[str, Restorer]) -> None:
    given = degraded("noise,jpeg")
    # In the order in which they are applied, not in that of the question.
    expected = alone["haze"](alone["jpeg"](alone["noise"](given)))
    assert torch.equal(restorer(given, only="haze,jpeg,noise"), expected)
    half = restorer(given, only="haze,jpeg,noise", strength=0.5)
    torch.testing.assert_close(half, given.lerp(expected, 0.5))


def test_light_and_detail(restorer: Restorer) -> None:
    given = degraded("low_light,noise")
    everything = restorer(given, only="low_light,noise")
    held = restorer(given, only="low_light,noise", light=0)
    assert everything.mean() > given.mean() + 0.1
    assert abs(held.mean() - given.mean()) < 0.02
    assert not torch.equal(held, given)
    pixels = (given[0].permute(1, 2, 0) * 255).round().byte().numpy()
    half, run = restorer.restore_pixels(pixels, detail=0.5)
    assert run.found and not np.array_equal(half, restorer.restore_pixels(pixels)[0])


def test_images_of_a_batch_need_different_ones(restorer: Restorer) -> None:
    images = torch.cat([degraded("noise"), photo() / 255, degraded("low_light")])
    together = restorer(images)
    for image, result in zip(images, together, strict=True):
        torch.testing.assert_close(result[None], restorer(image[None]), atol=1e-5, rtol=0)
    assert torch.equal(together[1], images[1])
    assert restorer(images[:0]).shape == (0, 3, 128, 128)


def test_tiles(restorer: Restorer) -> None:
    given = torch.cat([degraded("noise"), degraded("noise")], 3).repeat(1, 1, 3, 2)
    pixels = (given[0].permute(1, 2, 0) * 255).round().byte().numpy()
    result, run = restorer.restore_pixels(pixels, tile=256)
    assert "noise" in (run.found or ()) and run.tile == 256 and len(run.tile_experts) > 1
    whole, _ = restorer.restore_pixels(pixels, tile=0)
    assert np.abs(result.astype(int) - whole).mean() < 1


def test_lower_precision(restorer: Restorer) -> None:
    given = degraded("noise")
    exact, half = restorer(given), Restorer(precision="bfloat16", device="cpu")(given)
    assert (exact - half).abs().mean() < 0.005 and not torch.equal(exact, half)


def test_what_is_not_finite_fails() -> None:
    restorer = Restorer(device="cpu")
    assert restorer.specialists is not None
    for broken in (restorer.specialists._of("noise"), restorer):
        with torch.no_grad():
            broken.model.output.weight.fill_(float("nan"))
        for only in ("noise", None):
            with pytest.raises(PictureError, match="NaN or infinite"):
                restorer(degraded("noise"), only=only)


def test_nothing_else_changes_when_they_are_loaded() -> None:
    restorer, given = Restorer(device="cpu"), degraded("noise")
    assert restorer.specialists is not None
    state = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):  # the caller's, which is no concern of theirs
        result = restorer(given)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(result, Restorer(device="cpu")(given))
    loaded = restorer.specialists._of("noise").model
    assert not any(p.is_inference() for p in loaded.parameters())


def test_memory_runs_out_while_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(device="cpu")
    assert restorer.specialists is not None
    full = [True, False]

    def released() -> bool:
        return full.pop(0)

    def look(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(restorer, "release_memory", released)
    monkeypatch.setattr(restorer.specialists, "_look", look)
    with pytest.raises(TooLittleMemory, match="ran out of memory while looking at the image"):
        restorer(degraded("noise"))
    assert not full  # tried again after something was released


def test_memory_runs_out_while_a_specialist_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again after something was released."""
    restorer = Restorer(device="cpu")
    assert restorer.specialists is not None
    loads, full = restorer.specialists._of, [True]

    def of(name: str) -> Restorer:
        if full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loads(name)

    monkeypatch.setattr(restorer.specialists, "_of", of)
    monkeypatch.setattr(restorer, "release_memory", lambda: bool(full and full.pop()))
    restorer(degraded("noise"), only="noise")
    full.append(True)
    monkeypatch.setattr(restorer, "release_memory", lambda: False)
    with pytest.raises(TooLittleMemory, match="ran out of memory while loading the specialist"):
        restorer(degraded("noise"), only="noise")


def test_threads_load_a_specialist_once(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(device="cpu")
    assert restorer.specialists is not None
    siblings, both = [], threading.Barrier(2)

    def sibling(name: str) -> object:
        siblings.append(name)
        threading.Event().wait(0.05)
        return object()

    def work() -> None:
        both.wait()
        restorer.specialists._of("noise")  # type: ignore[union-attr]

    monkeypatch.setattr(restorer, "sibling", sibling)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert siblings == ["noise"]


def test_grey_stays_grey_in_between(restorer: Restorer, alone: dict[str, Restorer]) -> None:
    pixels = (
        (degraded("noise,jpeg")[0].mean(0) * 65535).round().numpy().astype(np.uint16)[..., None]
    )
    result, _ = restorer.restore_pixels(pixels, only="noise,jpeg")
    expected = alone["jpeg"].restore_pixels(alone["noise"].restore_pixels(pixels)[0])[0]
    assert result.dtype == np.uint16 and np.abs(result.astype(int) - expected).max() < 40


def test_only_one_result_is_held_in_between(restorer: Restorer) -> None:
    held: list[weakref.ref[Tensor]] = []

    class Watched(BufferedCanvas):
        def __init__(self, canvas: Canvas) -> None:
            super().__init__(canvas)
            held.append(weakref.ref(self.results))
            assert sum(ref() is not None for ref in held) <= 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specialists, "BufferedCanvas", Watched)
        restorer(degraded("noise"), only=",".join(KINDS))
    assert len(held) == len(SPECIALISTS) - 1


@pytest.mark.parametrize("size", [1, 128, 384, 385, 511, 512, 600, 4000])
def test_where_a_photo_is_looked_at(size: int) -> None:
    parts = _along(size)
    assert parts[0][0] == 0 and parts[-1][1] == size and len(parts) <= PLACES
    assert all(end - start in (SIDE, size) for start, end in parts)
    if size <= 2 * SIDE:  # nothing is passed over
        assert all(b[0] <= a[1] for a, b in itertools.pairwise(parts))


def test_a_large_photo_is_looked_at_in_its_corners_and_in_the_middle() -> None:
    def ends(length: int) -> set[tuple[int, int]]:
        return {(0, SIDE), (length - SIDE, length)}

    places = [((r.start, r.stop), (c.start, c.stop)) for r, c in _places(900, 1200)]
    assert len(places) == 5 and set(places[:2] + places[3:]) == set(
        itertools.product(ends(900), ends(1200))
    )
    assert len([*_places(400, 1200)]) == 6 and len([*_places(400, 400)]) == 4


@pytest.mark.parametrize("names", [(), ("haze",), ("noise", "weather"), tuple(SPECIALISTS)])
def test_the_judge_decides(
    names: tuple[str, ...], alone: dict[str, Restorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[float]]] = []

    def judge(name: str, seen: Tensor, logits: Tensor, applied: Tensor) -> Tensor:
        asked.append((name, applied[0].tolist()))
        assert seen.isfinite().all() and logits.shape == (len(seen), len(KINDS))
        return torch.full((len(seen),), 2.0 if name in names else 0.5)

    monkeypatch.setattr(specialists, "load_judge", lambda device: judge)
    monkeypatch.setattr(specialists, "POSSIBLE", 0.0)
    given = degraded("haze,noise")
    expected = given
    for name in names:
        expected = alone[name](expected)
    assert torch.equal(Restorer(device="cpu")(given), expected)
    assert [name for name, _ in asked] == [*SPECIALISTS]
    for i, (_, applied) in enumerate(asked):
        assert applied == [float(n in names and j < i) for j, n in enumerate(SPECIALISTS)]


def test_what_cannot_be_there_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specialists, "POSSIBLE", 1.1)
    restorer, given = Restorer(device="cpu"), degraded("noise", "strong")
    assert torch.equal(restorer(given), given)
    assert restorer.specialists is not None and not restorer.specialists._loaded


def test_it_is_no_single_network(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"several networks: name one of them, compact, noise"):
        load_model(TOGETHER)
    with pytest.raises(ConfigError, match="a route is that of one network"):
        route_of(restorer, photo()[0] / 255)
    with pytest.raises(ConfigError, match="costs are those of one network"):
        measure_cost(restorer, 64, 64)
    # A folder of that name is meant by its path.
    small = MoCEIRConfig(dim=8, num_blocks=(1, 1), num_dec_blocks=(1,), heads=(1, 1))
    MoCEIR(small).save_pretrained(tmp_path / "noise")
    monkeypatch.chdir(tmp_path)
    assert load_model("noise").config.dim == 16
    assert load_model("./noise").config.dim == load_model(Path("noise")).config.dim == 8
    assert isinstance(restorer.model.config, MoCEIRConfig)
    models = [load_model(name) for name in BUNDLED]
    assert restorer.parameters == sum(p.numel() for model in models for p in model.parameters())
    # Tiles and memory are planned by the first for all: depth alone does not change them.
    same = [model.config.replace(num_refinement_blocks=1) for model in models]
    assert all(config == same[0] for config in same)
