"""``Restorer``: from an image to a restored image."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moce_kernels.backends import BackendUnavailableError, choose
from moceir.errors import ConfigError, PictureError, TooLittleMemory, check_several, short
from moceir.inference import graphs, many, memory, tiles
from moceir.inference.canvas import Canvas, PixelCanvas, Progress, TensorCanvas
from moceir.inference.network import Network
from moceir.inference.precision import chosen
from moceir.inference.results import Restored, Run, said
from moceir.inference.selection import BufferedCanvas, Found, select
from moceir.inference.settings import Settings, Wanted, check
from moceir.inference.specialists import Specialists
from moceir.inference.threads import (
    MOST_THREADS,
    cpu_threads,
    forked,
    one_thread_after_fork,
)
from moceir.model import MoCEIR, load_model
from moceir.model.network import OPERATORS
from moceir.pictures import codec
from moceir.weights.bundled import BUNDLED, TOGETHER

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Array = TypeVar("_Array", np.ndarray, Tensor)


class _NotFinite(Exception):
    """The network's output contains NaN or infinite values."""


class _RanOut(Exception):
    """Of memory, raised when what was held is gone."""


class Restorer:
    """Restores images with one network, or with the bundled specialists.

    >>> restorer = Restorer()
    >>> restorer("photo.jpg").save("restored.png")

    In a process forked after a ``Restorer`` was created, PyTorch runs on one CPU thread. A spawned
    process has all threads.

    Every call takes the keyword arguments of ``Settings``.

    Args:
        model: a network, or what ``moceir.load_model`` takes: a bundled name, a folder, a
            weights file, a published checkpoint, ``user/repository`` on the Hugging Face Hub.
            None, or ``specialists``: the bundled specialists, of which each image goes through
            those that it needs. After training a network, make a new ``Restorer`` of it: on a GPU
            not every change of the weights is noticed.
        device: a torch device; None: a CUDA GPU if there is one, else the CPU.
        precision: ``float32``, ``bfloat16`` or ``float16``, of the activations; ``auto``: bfloat16
            for the bundled weights on a GPU that has it, else float32; None: float32. An image that
            overflows in a lower one is restored in float32, as its ``Run`` notes.
        threads: CPU threads that restore an image; None: PyTorch's setting. While an image is
            restored, PyTorch uses that number in the whole process.

    Raises:
        WeightsError: weights that cannot be used.
        ConfigError: an unknown precision; ``threads`` below 1 or above 1024; a device, or a backend
            named in the environment's MOCE_KERNELS_BACKEND, that is not available; a malformed
            MOCE_KERNELS_BACKEND.
    """

    def __init__(
        self,
        model: MoCEIR | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None and not (
            isinstance(threads, Integral) and 1 <= threads <= MOST_THREADS
        ):
            raise ConfigError(f"threads {short(threads)}: give 1 to {MOST_THREADS}", "threads")
        self._threads = threads
        self.device = memory.find_device(device)
        self.precision = precision = chosen(precision, model, self.device)
        one_thread_after_fork()
        try:
            runs = {o: choose(o, None, self.device, getattr(torch, precision)) for o in OPERATORS}
        except (BackendUnavailableError, ValueError) as error:
            raise ConfigError(str(error)) from error
        self.backend = runs["grouped_experts"]
        self.specialists: Specialists | None = None
        """The bundled ones, if these restore; ``model`` then helps to tell which an image needs."""
        if model is None or (isinstance(model, str) and model == TOGETHER):
            model = BUNDLED[0]
            self.specialists = Specialists(self)
        if not isinstance(model, MoCEIR):
            model = load_model(model)
        self.model = model.eval().to(self.device)
        self._run = Network(self.model, self.device, precision)
        self._graphs = self._run.graphs
        self._all_graphs = [self._graphs]

    def sibling(self, name: str) -> Restorer:
        """With other bundled weights, on the same device; memory is released together."""
        other = Restorer(name, self.device, self.precision, self._threads)
        other._all_graphs = self._all_graphs
        other._all_graphs.append(other._graphs)
        return other

    @property
    def parameters(self) -> int:
        """Of all networks, which are loaded for it."""
        others = [] if self.specialists is None else self.specialists.all()
        return sum(p.numel() for r in (self, *others) for p in r.model.parameters())

    @property
    def threads(self) -> int:
        """CPU threads that restore an image."""
        return torch.get_num_threads() if self._threads is None or forked() else self._threads

    @overload
    def __call__(
        self, image: Image.Image | str | Path, **settings: Unpack[Settings]
    ) -> Image.Image: ...
    @overload
    def __call__(self, image: _Array, **settings: Unpack[Settings]) -> _Array: ...
    def __call__(
        self, image: Image.Image | np.ndarray | Tensor | str | Path, **settings: Unpack[Settings]
    ) -> Image.Image | np.ndarray | Tensor:
        """Restore one image, or a batch of images as a tensor. The result is of the same type.

        Args:
            image: a path or a PIL image, restored to a PIL image; a numpy array (H, W, 3)
                uint8, RGB; or a tensor (B, 3, H, W), floating point in [0, 1], RGB, on any
                device, B 0 or more. In PIL images greyscale and alpha are preserved, 16-bit
                greyscale stays 16-bit, and other modes become RGB. The result is upright,
                following the EXIF orientation, and its ``info`` has profile, EXIF, XMP and
                resolution as Pillow's ``save`` expects them: ``result.save(path, **result.info)``
                writes them all.
            settings: see ``Settings``.

        Raises:
            TypeError, ValueError: other input, such as values outside [0, 1].
            ConfigError: a setting out of range.
            PictureError: a file that cannot be read as an image, too little memory, or a result
                that is not finite.
        """
        if isinstance(image, (Image.Image, str, Path)):
            return self.restore(image, **settings).image
        if isinstance(image, np.ndarray):
            if not many.is_rgb(image):
                raise ValueError(
                    f"array of shape {image.shape} and dtype {image.dtype}: give (H, W, 3) uint8"
                )
            return self.restore_pixels(image, **settings)[0]
        if isinstance(image, Tensor):
            wanted = check(settings)
            canvas = TensorCanvas(image, self._blend(wanted))
            self._selected(canvas, wanted)
            return canvas.restored
        raise TypeError(
            f"{type(image).__name__}: give a PIL image, a uint8 array, a float tensor or a path"
        )

    def map(
        self,
        images: Iterable[Image.Image | np.ndarray | Tensor | str | Path],
        *,
        batch: int = many.TOGETHER,
        **settings: Unpack[Settings],
    ) -> Iterator[Image.Image | np.ndarray | Tensor | Exception]:
        """Restore many images in order, each as ``__call__`` does.

        An image is read when its result is asked for, so memory does not grow with their number.
        Consecutive images of the same size go through the network together if they are so small
        that calling the network costs more than its work. This is faster, and changes at most the
        last bits.

        Args:
            images: anything that yields what ``__call__`` takes.
            batch: the most images that go through the network together; also how many are read
                ahead. 1: each image on its own.
            settings: see ``Settings``.

        Returns:
            An iterator over the results, in the order of the images. If an image cannot be
            restored, its result is the exception that says why, and the iteration continues.

        Raises:
            ConfigError: a setting out of range.
        """
        check_several("images", images)
        many.check_batch(batch)
        check(settings)
        return many.restored(self, images, batch, settings)

    def map_async(
        self,
        images: Iterable[Any] | AsyncIterable[Any],
        *,
        batch: int = many.TOGETHER,
        **settings: Unpack[Settings],
    ) -> AsyncIterator[Image.Image | np.ndarray | Tensor | Exception]:
        """``map`` for asyncio: ``async for result in restorer.map_async(images)``.

        Images are read and restored in a thread of their own, while the event loop goes on. Those
        of one ``Restorer`` are best restored by one iteration: several do not go faster. If the
        iteration is cancelled, the thread ends after the images it is working on.

        Args:
            images, batch, settings: as for ``map``; ``images`` may be an asynchronous iterable,
                which is iterated over in the event loop. Results may wait for further small images:
                with ``batch=1`` none does.

        Raises:
            ConfigError: a setting out of range.
        """
        check_several("images", images)
        many.check_batch(batch)
        check(settings)
        return many.restored_async(self, images, batch, settings)

    def restore(self, image: Image.Image | str | Path, **settings: Unpack[Settings]) -> Restored:
        """Restore a PIL image or a file and say how; see ``__call__``."""
        if isinstance(image, Image.Image):
            picture = codec.picture_of(image)
        else:
            picture = codec.read(Path(image))
        picture.pixels, run = self.restore_pixels(picture.pixels, **settings)
        run = run._replace(notes=(*picture.notes, *run.notes))
        return Restored(codec.pillow_of(picture), run.experts, run)

    def restore_pixels(
        self,
        pixels: np.ndarray,
        *,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> tuple[np.ndarray, Run]:
        """Restore an array of any depth.

        Args:
            pixels: (H, W, C) uint8, uint16, or float32 in [0, 1]; C is 1 (grey), 2 (grey and
                alpha), 3 (RGB) or 4 (RGB and alpha). Alpha is copied.
            settings: see ``Settings``.
            progress: called before each tile with how many are done, and their number; what it
                raises ends the restoration and is passed on. Where only some of the restoration is
                wanted, the image is gone through again, and counting starts again.

        Returns:
            A new array of the same shape and dtype, and how it was restored.

        Raises:
            ValueError: another shape or dtype, or values out of [0, 1].
            ConfigError: a setting out of range.
            PictureError: too little memory, or a result that is not finite.
        """
        wanted = check(settings)
        canvas = PixelCanvas(pixels[None], self._blend(wanted), progress)
        (run,) = self._selected(canvas, wanted)
        return canvas.restored[0], run

    def restore_batch(
        self, pixels: np.ndarray, **settings: Unpack[Settings]
    ) -> tuple[np.ndarray, tuple[Run, ...]]:
        """Restore images of one shape together. Each is routed on its own, as by
        ``restore_pixels``; results are equal up to floating-point rounding.

        Args:
            pixels: (B, H, W, C), otherwise as in ``restore_pixels``.

        Returns:
            A new array of the same shape and dtype, and how each image was restored.
        """
        wanted = check(settings)
        canvas = PixelCanvas(pixels, self._blend(wanted))
        runs = self._selected(canvas, wanted)
        return canvas.restored, runs

    def _blend(self, wanted: Wanted) -> float:
        """The strength at which a canvas blends: of what one network changes, only a part may be
        wanted, and of what specialists change all is."""
        even = self.specialists is not None and wanted.light == wanted.detail
        return wanted.light if even else wanted.blend

    def _selected(self, canvas: Canvas, wanted: Wanted) -> tuple[Run, ...]:
        """Restore, then put only what is wanted on the canvas."""
        if self.specialists is not None:
            return self.specialists.restored(canvas, wanted)
        if not wanted.is_selective:
            return self.run_on(canvas, wanted)
        buffered = BufferedCanvas(canvas)
        runs = self.run_on(buffered, wanted)
        found = self.put_wanted(buffered, wanted)
        if found is None:
            return runs
        return tuple(
            run._replace(found=kinds, notes=(*run.notes, said(kinds)))
            for run, kinds in zip(runs, found, strict=True)
        )

    def put_wanted(self, buffered: BufferedCanvas, wanted: Wanted) -> list[Found] | None:
        """``select``, again without the graphs if memory runs out."""
        while True:
            with contextlib.suppress(_RanOut), cpu_threads(self.threads):
                return self._select(buffered, wanted)
            # Here what the attempt held is gone.
            if not self.release_memory():
                need = f"{self.device} ran out of memory while separating light and detail"
                remedy = "free some memory or choose another device"
                raise TooLittleMemory(need, remedy, "device")

    def _select(self, buffered: BufferedCanvas, wanted: Wanted) -> list[Found] | None:
        try:
            return select(buffered, wanted, self.device)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
        raise _RanOut

    def release_memory(self) -> bool:
        """Whether there was any, of graphs, which nothing else can use."""
        held = [replayed.release() for replayed in self._all_graphs]
        if self.device.type == "cuda":
            graphs.empty_cache()
        return any(held)

    def run_on(self, canvas: Canvas, wanted: Wanted) -> tuple[Run, ...]:
        """The network's result, in the requested precision, otherwise in float32, each image
        independently."""
        tile, overlap = wanted.tile, wanted.tile_overlap
        batch, height, width = canvas.size
        if batch == 0:
            return ()
        try:
            with cpu_threads(self.threads):
                return self._fitted(canvas, tile, overlap, self.precision)
        except _NotFinite:
            if batch > 1:
                alone = (self.run_on(canvas.image(i), wanted) for i in range(batch))
                return tuple(run for (run,) in alone)
        if self.precision != "float32":
            note = f"overflowed in {self.precision}: restored in float32"
            with contextlib.suppress(_NotFinite), cpu_threads(self.threads):
                (run,) = self._fitted(canvas, tile, overlap, "float32")
                return (run._replace(notes=(*run.notes, note)),)
        raise _broken(height, width)

    def _fitted(
        self, canvas: Canvas, tile: int | None, overlap: int, precision: str
    ) -> tuple[Run, ...]:
        """Whole or in tiles; if memory runs out, again with half the tile size."""
        _, height, width = canvas.size
        size, notes = self._fitting_tile(canvas, tile, overlap)
        while True:
            plan = tiles.plan(height, width, size, overlap)
            experts = self._attempt(canvas, plan, precision)
            if experts is not None:
                whole = plan.number == 1
                return tuple(
                    Run(0 if whole else size, 0 if whole else overlap, of_image, tuple(notes))
                    for of_image in zip(*experts, strict=True)
                )
            if self.release_memory():
                continue
            smaller = tiles.half(min(size or max(height, width), max(height, width)), overlap)
            if tile == 0 or smaller is None:
                part = f"tiles of {size}" if size else f"the whole {width} x {height}"
                remedy = "free some memory or choose another device"
                raise TooLittleMemory(
                    f"{self.device} ran out of memory with {part}",
                    f"use tiles, {remedy}" if tile == 0 else remedy,
                    "tile" if tile == 0 else "device",
                )
            notes.append(f"{self.device} ran out of memory: continued with tiles of {smaller}")
            size = smaller

    def _fitting_tile(
        self, canvas: Canvas, tile: int | None, overlap: int
    ) -> tuple[int, list[str]]:
        """As ``memory.fitting_tile``, without graphs if they are in the way."""
        arguments = self.model.config, canvas.size, self.device, tile, overlap
        with contextlib.suppress(TooLittleMemory):
            size, notes = memory.fitting_tile(*arguments)
            if not notes:
                return size, notes
        self.release_memory()
        return memory.fitting_tile(*arguments)

    def _attempt(
        self, canvas: Canvas, plan: tiles.TilePlan, precision: str
    ) -> list[list[tuple[int, ...]]] | None:
        """The experts of each tile's images; None if memory ran out, in which case everything that
        held memory is gone once this has returned."""
        stitching = tiles.Stitching(plan)
        experts = []
        try:
            for done, (rows, columns) in enumerate(plan.tiles()):
                canvas.progress(done, plan.number)
                restored, of_tile = self._network(canvas.part(rows, columns), precision)
                experts.append(of_tile)
                on_host = restored.cpu()
                canvas.check()
                if not on_host.isfinite().all():
                    raise _NotFinite
                finished = stitching.add(on_host)
                if finished is not None:
                    canvas.put(*finished)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            return None
        return experts

    @torch.inference_mode()
    def restored(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1], on the device, likewise: for a look at small images.

        Raises:
            PictureError: the result is not finite.
        """
        for precision in dict.fromkeys((self.precision, "float32")):
            restored, _ = self._run(images, precision, replay=False)
            if restored.isfinite().all():
                return restored.clamp(0, 1)
        raise _broken(*images.shape[2:])

    @torch.inference_mode()
    def _network(self, images: Tensor, precision: str) -> tuple[Tensor, list[tuple[int, ...]]]:
        """(B, 3, H, W) restored, float32, not clamped; each image's expert of each block."""
        restored, experts = self._run(images.to(self.device, torch.float32), precision)
        return restored, [tuple(of_image) for of_image in experts.tolist()]


def _broken(height: int, width: int) -> PictureError:
    return PictureError(
        f"the network's result for this {width} x {height} image contains NaN or infinite values: "
        "the weights are broken, use others"
    )
