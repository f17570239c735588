"""Many pictures, one after the other, as ``Restorer.map`` gives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from moceir import machine
from moceir.errors import ConfigError, MoceirError
from moceir.inference import memory
from moceir.pictures import codec

if TYPE_CHECKING:
    from moceir.inference.restorer import Restorer
    from moceir.inference.settings import Settings

TOGETHER = 8
"""Small pictures that go through the network at once at most: more gains nothing."""

EXPECTED = (MoceirError, OSError, ValueError, TypeError)
"""What is raised for a picture that cannot be restored. Anything else is a fault of the program."""


def gain_together(restorer: Restorer, height: int, width: int, number: int) -> bool:
    """Whether so many pictures of that size are so small that calling the network costs more than
    its work."""
    need = memory.network_bytes(restorer.model.config, height, width, number, restorer.device)
    return need <= machine.SMALL


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether pixels of two pictures can be ``stacked``."""
    return a.shape == b.shape and a.dtype == b.dtype


def stacked(pixels: list[np.ndarray]) -> np.ndarray:
    """(B, H, W, C), of (H, W, C) each. One alone is not copied: it may be large."""
    return pixels[0][None] if len(pixels) == 1 else np.stack(pixels)


class _Decoded(NamedTuple):
    """A picture that can go through the network with others."""

    pixels: np.ndarray
    """(H, W, C)."""
    result: Callable[[np.ndarray], Any]
    """Restored pixels as what was given: an array or a PIL image."""


def restored(
    restorer: Restorer, images: Iterable[Any], together: int, settings: Settings
) -> Iterator[Any]:
    """The results of ``restorer(image, **settings)``, or the errors, in order; ``together``
    pictures go through the network at once at most, and so many are held."""
    group: list[_Decoded] = []
    for image in images:
        decoded = _attempt(_decode, image)
        if group and not _joins(decoded, group[0]):
            yield from _results(restorer, group, settings)
            group = []
        if isinstance(decoded, _Decoded):
            group.append(decoded)
            height, width, _ = decoded.pixels.shape
            more = len(group) + 1
            if more > together or not gain_together(restorer, height, width, more):
                yield from _results(restorer, group, settings)
                group = []
        elif isinstance(decoded, Exception):
            yield decoded
        else:
            yield _attempt(restorer, decoded, **settings)
        del image, decoded  # a generator that waits would hold them
    yield from _results(restorer, group, settings)


async def restored_async(
    restorer: Restorer,
    images: Iterable[Any] | AsyncIterable[Any],
    together: int,
    settings: Settings,
) -> AsyncIterator[Any]:
    """``restored`` in a thread, for an event loop."""
    loop = asyncio.get_running_loop()
    source = _Pulled(images, loop) if isinstance(images, AsyncIterable) else images
    results = restored(restorer, source, together, settings)
    thread = ThreadPoolExecutor(1, "restore")
    try:
        while True:
            result = await loop.run_in_executor(thread, next, results, _END)
            if result is _END:
                return
            yield result
            del result
    finally:
        if isinstance(source, _Pulled):
            source.stop()
        thread.shutdown(wait=False, cancel_futures=True)


_END = object()


class _Pulled(Iterator[Any]):
    """An asynchronous iterable, from another thread than that of its event loop."""

    def __init__(self, images: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._images, self._loop = aiter(images), loop
        self._next: Future[Any] | None = None
        self._stopped = False

    def __next__(self) -> Any:
        if self._stopped:  # the event loop may be closed
            raise StopIteration
        self._next = asyncio.run_coroutine_threadsafe(self._pull(), self._loop)
        if self._stopped:
            self._next.cancel()
        try:
            image = self._next.result()
        except CancelledError:
            if self._stopped:
                raise StopIteration from None
            raise  # the images' own
        if image is _END:
            raise StopIteration
        return image

    async def _pull(self) -> Any:
        return await anext(self._images, _END)

    def stop(self) -> None:
        """Wait for no further image."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()


def check_batch(batch: int) -> None:
    """Raises ConfigError for a number of images that is none."""
    if batch < 1:
        raise ConfigError(f"batch {batch}: give 1 or more images", "batch")


def _attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function returns, or what was wrong with the picture."""
    try:
        return function(*args, **kwargs)
    except EXPECTED as error:
        return error


def is_rgb(array: np.ndarray) -> bool:
    """Whether an array is (H, W, 3) uint8."""
    return array.dtype == np.uint8 and array.shape[2:] == (3,) and array.size > 0


def _decode(image: Any) -> Any:
    """A picture that can go with others; else what was given, for ``Restorer`` itself."""
    if isinstance(image, np.ndarray) and is_rgb(image):
        return _Decoded(image, lambda pixels: pixels)
    if not isinstance(image, (Image.Image, str, Path)):
        return image
    picture = codec.picture_of(image) if isinstance(image, Image.Image) else codec.read(Path(image))

    def result(pixels: np.ndarray) -> Image.Image:
        picture.pixels = pixels
        return codec.pillow_of(picture)

    return _Decoded(picture.pixels, result)


def _joins(decoded: Any, first: _Decoded) -> bool:
    return isinstance(decoded, _Decoded) and alike(decoded.pixels, first.pixels)


def _results(restorer: Restorer, group: list[_Decoded], settings: Settings) -> Iterator[Any]:
    """Those of a group; if it fails, of each alone, so that one that cannot be restored does not
    take the others with it."""
    if not group:
        return
    try:
        results, _ = restorer.restore_batch(stacked([d.pixels for d in group]), **settings)
    except EXPECTED as error:
        if len(group) == 1:
            yield error
            return
        for decoded in group:
            yield from _results(restorer, [decoded], settings)
        return
    for decoded, result in zip(group, results, strict=True):
        yield decoded.result(result)
