"""Many pictures, one after the other: while one is restored, the next are read and the last are
written, a bounded number of each, so that memory does not grow with their number."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from moceir import machine
from moceir.commands.jobs import Job, Outcome, shown
from moceir.errors import MoceirError, PictureError
from moceir.inference import memory, tiles
from moceir.inference.restorer import Restorer, Run
from moceir.pictures import codec

TOGETHER = 8
"""Small pictures that go through the network at once at most: more gains nothing."""


@dataclass(frozen=True)
class Settings:
    """How pictures are restored and written; see ``moceir restore --help``."""

    tile: int | None = None
    tile_overlap: int = tiles.OVERLAP
    strength: float = 1.0
    ext: str | None = None
    quality: int | None = None
    overwrite: bool = False
    skip_existing: bool = False
    jobs: int = 2


class Pipeline:
    """Restores pictures and yields what became of each.

    Reading and writing have ``settings.jobs`` threads each, and as many pictures wait before and
    after the network; the network runs in the caller's thread, where Ctrl-C arrives. Neighbours of
    one shape go through it together if they are so small that calling it costs more than its work.
    """

    def __init__(
        self,
        restorer: Restorer,
        jobs: Sequence[Job],
        settings: Settings,
        on_error: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._restorer = restorer
        self._jobs = deque(jobs)
        self._settings = settings
        self._readers = ThreadPoolExecutor(settings.jobs, "read")
        self._writers = ThreadPoolExecutor(settings.jobs, "write")
        self._reading: deque[tuple[Job, Future[codec.Picture]]] = deque()
        self._writing: deque[tuple[Job, Outcome, Future[list[str]]]] = deque()
        self._on_error = on_error  # called with what was raised for a picture that failed

    def __iter__(self) -> Iterator[Outcome]:
        while self._jobs or self._reading:
            self._read_ahead()
            group = self._next_group()
            jobs = [job for job, _ in group]
            try:
                results = self._restore([reading.result() for _, reading in group])
            except Exception as error:
                for job in jobs:
                    yield self._failed(job, error)
                continue
            finally:
                del group  # it holds the pictures
            for job, (fields, restored) in zip(jobs, results, strict=True):
                outcome = Outcome.of(job, "restored", **fields)
                writing = self._writers.submit(self._write, job, restored)
                self._writing.append((job, outcome, writing))
                del restored
                while self._writing and (
                    self._writing[0][2].done() or len(self._writing) > self._settings.jobs
                ):
                    yield self._written()
        while self._writing:
            yield self._written()
        self._readers.shutdown()
        self._writers.shutdown()

    def _read_ahead(self) -> None:
        while self._jobs and len(self._reading) <= self._settings.jobs:
            job = self._jobs.popleft()
            self._reading.append((job, self._readers.submit(self._read, job)))

    def _next_group(self) -> list[tuple[Job, Future[codec.Picture]]]:
        """The next picture, and those after it that go through the network with it.

        Which ones depends on the pictures alone, never on how fast they are read: the last bits of
        a result can depend on its company.
        """
        group = [self._reading.popleft()]
        while len(group) < TOGETHER and self._reading and self._joins(group, self._reading[0][1]):
            group.append(self._reading.popleft())
            self._read_ahead()
        return group

    def _joins(
        self, group: list[tuple[Job, Future[codec.Picture]]], reading: Future[codec.Picture]
    ) -> bool:
        first = group[0][1]
        if first.exception():
            return False
        pixels = first.result().pixels
        height, width, _ = pixels.shape
        config, device = self._restorer.model.config, self._restorer.device
        if memory.network_bytes(config, height, width, len(group) + 1, device) > machine.SMALL:
            return False
        if reading.exception():
            return False
        other = reading.result().pixels
        return other.shape == pixels.shape and other.dtype == pixels.dtype

    def stop(self) -> list[Outcome]:
        """Begin nothing more; wait until what is being written is whole."""
        self._jobs.clear()
        self._reading.clear()
        self._readers.shutdown(cancel_futures=True)
        outcomes = []
        while self._writing:
            outcomes.append(self._written())
        self._writers.shutdown()
        return outcomes

    def _written(self) -> Outcome:
        job, outcome, writing = self._writing[0]
        try:
            outcome.notes += writing.result()
        except Exception as error:
            if self._settings.skip_existing and isinstance(error, FileExistsError):
                outcome = Outcome.of(job, "skipped")  # another process was there before
            else:
                outcome = self._failed(job, error)
        self._writing.popleft()
        return outcome

    def _failed(self, job: Job, error: Exception) -> Outcome:
        self._on_error(error)
        name = shown(job.source)
        if isinstance(error, OSError) and error.strerror:
            name, reason = shown(Path(error.filename)) if error.filename else name, error.strerror
        else:
            reason = str(error) or type(error).__name__
            if not isinstance(error, (MoceirError, OSError, ValueError)):
                reason = f"unexpected {type(error).__name__}: {reason} (moceir --debug shows where)"
        text = reason if reason.startswith(name) else f"{name}: {reason}"
        return Outcome.of(job, "failed", error=text)

    def _read(self, job: Job) -> codec.Picture:
        if job.target is not None:
            codec.writable(job.target.suffix)  # before any work
        if job.source is None:
            if sys.stdin is None:
                raise PictureError("-: standard input is closed: pipe a picture in")
            return codec.decode(sys.stdin.buffer.read(), "-")
        return codec.read(job.source, shown(job.source))

    def _restore(self, pictures: list[codec.Picture]) -> list[tuple[dict[str, Any], codec.Picture]]:
        """Pictures of one shape, each with the fields of its outcome."""
        settings, restorer = self._settings, self._restorer
        if len(pictures) == 1:
            pixels = pictures[0].pixels[None]  # not copied: it may be large
        else:
            pixels = np.stack([picture.pixels for picture in pictures])
        peak = machine.Peak(restorer.device)
        start = time.perf_counter()
        results, runs = restorer.restore_batch(
            pixels,
            tile=settings.tile,
            tile_overlap=settings.tile_overlap,
            strength=settings.strength,
        )
        seconds = (time.perf_counter() - start) / len(pictures)
        return [
            (
                self._fields(picture, run, seconds, peak.bytes()),
                replace(picture, pixels=restored),
            )
            for picture, restored, run in zip(pictures, results, runs, strict=True)
        ]

    def _fields(
        self, picture: codec.Picture, run: Run, seconds: float, peak: int | None
    ) -> dict[str, Any]:
        height, width, channels = picture.pixels.shape
        return {
            "width": width,
            "height": height,
            "channels": ("grey", "grey+alpha", "RGB", "RGBA")[channels - 1],
            "bits": picture.pixels.itemsize * 8,
            "device": str(self._restorer.device),
            "backend": self._restorer.backend,
            "precision": self._restorer.precision,
            "tile": run.tile,
            "tile_overlap": run.tile_overlap,
            "experts": [list(experts) for experts in run.tile_experts],
            "seconds": round(seconds, 3),
            "peak_memory_bytes": peak,
            "notes": [*picture.notes, *run.notes],
        }

    def _write(self, job: Job, picture: codec.Picture) -> list[str]:
        quality = self._settings.quality
        if job.target is None:
            if sys.stdout is None:
                raise PictureError("-: standard output is closed: give a file to write to")
            buffer = BytesIO()
            notes = codec.encode(picture, buffer, self._format_of_stdout(job, picture), quality)
            sys.stdout.buffer.write(buffer.getbuffer())
            sys.stdout.buffer.flush()
            return notes
        return codec.write(picture, job.target, quality, self._settings.overwrite)

    def _format_of_stdout(self, job: Job, picture: codec.Picture) -> str:
        """As --ext says, else as the input's name says, else as the input is."""
        if self._settings.ext:
            return codec.writable(f".{self._settings.ext.lstrip('.')}")
        if job.source is not None:
            return codec.writable(job.source.suffix)
        return picture.format if picture.format in codec.KEPT_BY_PIPES else "PNG"
