"""Restorer.map: many pictures in order, small ones together, errors in their places."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import moceir
from moceir import Restorer
from moceir.errors import ConfigError, PictureError
from moceir.inference import many
from moceir.pictures.pixels import to_tensor
from tests.inference.test_restorer import Overflowing
from tests.small_network import noise, picture, restorer

__all__ = ["restorer"]


@pytest.fixture
def groups(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through the network together, each time."""
    numbers: list[int] = []
    batch = restorer.restore_batch

    def counted(pixels: np.ndarray, **settings: Any) -> Any:
        numbers.append(len(pixels))
        return batch(pixels, **settings)

    monkeypatch.setattr(restorer, "restore_batch", counted)
    return numbers


def array(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_each_as_alone_and_of_its_kind(restorer: Restorer, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    given = [
        path,
        str(path),
        noise(),
        noise().convert("L"),
        array(16, 24),
        to_tensor(noise())[None],
    ]
    results = list(restorer.map(given, strength=0.5))
    assert len(results) == len(given)
    for image, result in zip(given, results, strict=True):
        alone = restorer(image, strength=0.5)
        assert type(result) is type(alone)
        if isinstance(alone, torch.Tensor):
            assert torch.equal(result, alone)
        else:
            a, b = np.asarray(result).astype(int), np.asarray(alone).astype(int)
            assert a.shape == b.shape and np.abs(a - b).max() <= 1


def test_metadata_are_carried(restorer: Restorer) -> None:
    image = noise()
    image.info["dpi"] = (300, 300)
    (result,) = restorer.map([image])
    assert isinstance(result, Image.Image) and result.info["dpi"] == (300, 300)


def test_neighbours_of_one_shape_go_together(restorer: Restorer, groups: list[int]) -> None:
    shapes = [(16, 24)] * 5 + [(24, 16)] * 2 + [(16, 24)]
    given = [array(*shape, seed=i) for i, shape in enumerate(shapes)]
    results = list(restorer.map(given, batch=3))
    assert groups == [3, 2, 2, 1]
    assert [np.shape(result)[:2] for result in results] == shapes
    for image, result in zip(given, results, strict=True):
        assert np.abs(result.astype(int) - restorer(image)).max() <= 1


def test_large_ones_go_alone(
    restorer: Restorer, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "gain_together", lambda restorer, h, w, number: h < 20)
    list(restorer.map([array(16, 24)] * 2 + [array(24, 16)] * 2))
    assert groups == [2, 1, 1]
    monkeypatch.undo()
    assert many.gain_together(restorer, 64, 64, 8)
    assert not many.gain_together(restorer, 1000, 1000, 2)


def test_errors_take_their_places(restorer: Restorer, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    good, grey = array(16, 24), np.zeros((16, 24), np.uint8)
    bad: list[Any] = [
        tmp_path / "none.png",
        tmp_path / "text.png",
        grey,
        3,
        torch.full((1, 3, 8, 8), 2.0),
    ]
    results = list(restorer.map([good, *bad, good]))
    expected = [PictureError, PictureError, ValueError, TypeError, ValueError]
    assert [type(result) for result in results] == [np.ndarray, *expected, np.ndarray]
    assert "none.png" in str(results[1]) and "values from 2" in str(results[5])


def test_one_that_fails_does_not_take_its_neighbours_with_it() -> None:
    torch.manual_seed(0)
    restorer = Restorer(Overflowing(torch.float32), device="cpu")
    given = [array(16, 24, seed) for seed in range(3)]
    for image in given:
        image[0, 0] = 0
    given[1][0, 0] = 255
    results = list(restorer.map(given))
    assert [type(result) for result in results] == [np.ndarray, PictureError, np.ndarray]
    assert np.array_equal(results[2], restorer(given[2]))


def test_faults_of_the_program_are_raised(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(restorer, "run_on", broken)
    with pytest.raises(KeyError):
        next(restorer.map([array(16, 24)]))


def test_the_letters_of_a_name_are_no_list(restorer: Restorer) -> None:
    calls: list[Callable[[], object]] = [
        lambda: restorer.map("photo.jpg"),
        lambda: restorer.map_async("photo.jpg"),
        lambda: moceir.plan_files(".", "out", files="list.txt"),
        lambda: moceir.benchmarks("sots", "."),
        lambda: moceir.routes(restorer, "photo.jpg"),  # type: ignore[arg-type]
        lambda: moceir.routes(restorer, ["photo.jpg"], kinds="noise"),
        lambda: moceir.measure_cost(restorer, pictures="photo.jpg"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="give a list, even for one"):
            call()


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"strength": 2}, {"tile": 10}])
def test_settings_are_checked_at_once(restorer: Restorer, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        restorer.map([], **wrong)


@pytest.mark.parametrize("batch", [1, 4])
def test_pictures_are_read_as_they_are_needed_and_let_go(restorer: Restorer, batch: int) -> None:
    """Of an endless iterable, a batch is in memory at most, and the picture that is being read."""
    given: list[weakref.ref[np.ndarray]] = []
    most = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal most
        while True:
            image = array(16, 24)
            given.append(weakref.ref(image))
            most = max(most, sum(ref() is not None for ref in given))
            yield image
            del image

    results = restorer.map(endless(), batch=batch)
    for _ in range(10):
        assert isinstance(next(results), np.ndarray)
    assert most == batch  # the last batch is let go before the next picture is read
    assert len(given) == -(-10 // batch) * batch


async def _gathered(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_from_an_event_loop(restorer: Restorer, asynchronous: bool) -> None:
    given = [array(16, 24, i) for i in range(5)] + ["missing.png", array(20, 24)]  # type: ignore[list-item]
    ticks = []

    async def source() -> AsyncIterator[Any]:
        for image in given:
            await asyncio.sleep(0.001)
            yield image

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async def main() -> list[Any]:
        ticking = asyncio.create_task(tick())
        images = source() if asynchronous else given
        results = await _gathered(restorer.map_async(images, batch=2, strength=0.5))
        ticking.cancel()
        return results

    results = asyncio.run(main())
    expected = list(restorer.map(given, batch=2, strength=0.5))
    if not asynchronous:  # else the images themselves wait
        assert len(ticks) > 5  # the loop went on
    for result, other in zip(results, expected, strict=True):
        if isinstance(other, Exception):
            assert isinstance(result, PictureError) and str(result) == str(other)
        else:
            assert np.array_equal(result, other)


def test_cancelled_while_it_waits_for_images(restorer: Restorer) -> None:
    """Neither the event loop nor the thread hangs, nor is another image taken."""
    taken = []

    async def source() -> AsyncIterator[Any]:
        for i in range(3):
            taken.append(i)
            yield array(16, 24, i)
            await asyncio.sleep(3600 if i else 0)

    async def main() -> int:
        results = restorer.map_async(source(), batch=1)
        first = await anext(results)
        assert np.array_equal(first, restorer(array(16, 24, 0)))
        await anext(results)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.1)
        return len(taken)

    before = threading.active_count()
    assert asyncio.run(main()) == 2
    for thread in threading.enumerate():
        if thread.name.startswith("restore"):
            thread.join(10)
    assert threading.active_count() <= before


def test_a_source_that_is_cancelled_is_no_end_of_the_images(restorer: Restorer) -> None:
    async def source() -> AsyncIterator[Any]:
        yield array(16, 24)
        task = asyncio.create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    async def main() -> None:
        await _gathered(restorer.map_async(source(), batch=1))

    with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
        asyncio.run(main())


@pytest.mark.filterwarnings("error")
def test_stopped_while_an_image_is_restored(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread asks for no further image of a loop that is closed."""
    begun, stopped = threading.Event(), threading.Event()
    batch = restorer.restore_batch

    def slow(pixels: np.ndarray, **settings: Any) -> Any:
        begun.set()
        assert stopped.wait(60)
        return batch(pixels, **settings)

    monkeypatch.setattr(restorer, "restore_batch", slow)

    async def source() -> AsyncIterator[Any]:
        for i in range(5):
            yield array(16, 24, i)

    async def main() -> None:
        results = restorer.map_async(source(), batch=1)
        waiting = asyncio.ensure_future(anext(results))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    stopped.set()
    for thread in threading.enumerate():
        if thread.name.startswith("restore"):
            thread.join(10)
            assert not thread.is_alive()


def test_settings_are_refused_before_the_first_image(restorer: Restorer) -> None:
    with pytest.raises(ConfigError, match="strength 2"):
        restorer.map_async([], strength=2)
    with pytest.raises(ConfigError, match="batch 0"):
        restorer.map_async([], batch=0)


def test_an_error_of_the_source_is_passed_on(restorer: Restorer) -> None:
    async def source() -> AsyncIterator[Any]:
        yield array(16, 24)
        raise OSError("the camera is gone")

    async def main() -> None:
        await _gathered(restorer.map_async(source(), batch=1))

    with pytest.raises(OSError, match="the camera is gone"):
        asyncio.run(main())
