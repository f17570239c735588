"""Restoring many pictures: while one is restored, the next ones are read and the previous ones
written, a bounded number of each, so that memory does not grow with their number."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moceir import machine
from moceir.errors import ConfigError, PictureError
from moceir.files import naming, shown
from moceir.inference.jobs import Job, Outcome, Plan
from moceir.inference.many import TOGETHER, alike, gain_together, stacked
from moceir.inference.restorer import Restorer, Run
from moceir.inference.settings import FOUND, Settings, check
from moceir.pictures import codec
from moceir.pictures.remote import Remote

if TYPE_CHECKING:
    from typing_extensions import Unpack


def restore_files(
    plan: Plan,
    restorer: Restorer | Callable[[], Restorer] | None = None,
    *,
    quality: int | None = None,
    jobs: int = 2,
    report: Callable[[Outcome], None] = lambda outcome: None,
    **settings: Unpack[Settings],
) -> dict[str, int]:
    """Restore the images of a plan. An image that fails does not stop the rest, and memory does not
    grow with their number.

    >>> outcomes = []
    >>> plan = plan_files("holiday", "better", skip_existing=True)
    >>> restore_files(plan, report=outcomes.append)
    {'skipped': 2, 'restored': 40, 'failed': 1}

    An output appears complete or not at all, with its source's metadata, date and permissions. If
    nothing is found in an image, the output is a copy of its file, unless another
    format is asked for. On an exception such as KeyboardInterrupt, no further image is started,
    those being written are finished and reported, and the exception is raised again.

    Args:
        plan: from ``plan_files``. If it has a manifest, each image is noted there.
        restorer: one, or a function that makes one, which is called when the first image has been
            read; None: one with the bundled specialists.
        quality: 1 to 100, for JPEG, WebP, AVIF and the like; None: 95, but lossless images stay
            lossless.
        jobs: threads that read images, and threads that write them, while the network runs.
        report: called with the outcome of each image as soon as it is known, in this thread: in the
            order of the plan, except that one that cannot be read comes earlier.
        settings: see ``Settings``.

    Returns:
        How many images had which outcome: ``restored``, ``skipped``, ``failed``.

    Raises:
        ConfigError: an argument out of range.
        WeightsError: the weights cannot be used.
        OSError: the manifest cannot be written.
    """
    check_settings(quality, jobs, **settings)
    batch = _Batch(plan, restorer, settings, quality, jobs)
    with plan.noting(report) as note:
        try:
            for outcome in batch:
                note(outcome)
        except BaseException:
            for outcome in batch.stop():
                note(outcome)
            raise
    return note.counts


def check_settings(quality: int | None = None, jobs: int = 2, **settings: Unpack[Settings]) -> None:
    """
    Raises:
        ConfigError: ``restore_files`` would refuse one of its arguments.
    """
    check(settings)
    if quality is not None and not 1 <= quality <= 100:
        raise ConfigError(f"quality {quality}: give 1 to 100", "quality")
    if jobs < 1:
        raise ConfigError(f"jobs {jobs}: give at least 1", "jobs")


class _Restored(NamedTuple):
    """A restored picture, and what its outcome says of it."""

    job: Job
    fields: dict[str, Any]
    picture: codec.Picture


class _Reading(NamedTuple):
    """A picture that is being read."""

    job: Job
    picture: Future[codec.Picture]


class _Batch:
    """Restores pictures and yields what became of each.

    Reading and writing have ``jobs`` threads each, and as many pictures wait before and after the
    network; the network runs in the caller's thread, where Ctrl-C arrives. Neighbours of one shape
    go through it together if they are so small that calling it costs more than its work.
    """

    def __init__(
        self,
        plan: Plan,
        restorer: Restorer | Callable[[], Restorer] | None,
        settings: Settings,
        quality: int | None,
        jobs: int,
    ) -> None:
        self._plan, self._given, self._settings = plan, restorer, settings
        self._quality, self._waiting = quality, jobs
        self._items = iter(plan)
        self._readers = ThreadPoolExecutor(jobs, "read")
        self._writers = ThreadPoolExecutor(jobs, "write")
        self._reading: deque[_Reading | Outcome] = deque()
        self._writing: deque[tuple[Job, Outcome, Future[list[str]]]] = deque()

    @cached_property
    def _restorer(self) -> Restorer:
        """Made when the first picture has been read: without one, nobody waits for it."""
        if isinstance(self._given, Restorer):
            return self._given
        return Restorer() if self._given is None else self._given()

    def __iter__(self) -> Iterator[Outcome]:
        while self._read_ahead():
            yield from self._reported()
            first = self._reading.popleft()
            if isinstance(first, Outcome):
                yield first
                continue
            for result in self._restored(self._group_of(first)):
                if isinstance(result, Outcome):
                    yield result
                    continue
                outcome = Outcome.of(result.job, "restored", **result.fields)
                writing = self._writers.submit(self._write, result.job, result.picture)
                self._writing.append((result.job, outcome, writing))
                del result  # it holds the picture
                yield from self._reported()
        while self._writing:
            yield self._written()
        self._readers.shutdown()
        self._writers.shutdown()

    def _reported(self) -> Iterator[Outcome]:
        """Of pictures that have been written. Waits if too many are being written."""
        while self._writing and (self._writing[0][2].done() or len(self._writing) > self._waiting):
            yield self._written()

    def _read_ahead(self) -> bool:
        """Whether there is more to do."""
        for item in islice(self._items, self._waiting + 1 - len(self._reading)):
            self._reading.append(
                _Reading(item, self._readers.submit(self._read, item))
                if isinstance(item, Job)
                else item
            )
        return bool(self._reading)

    def _group_of(self, first: _Reading) -> list[_Reading]:
        """A picture, and those right after it that go through the network with it.

        Which ones depends on the pictures alone, never on how fast they are read: the last bits of
        a result can depend on its company.
        """
        if not first.picture.exception():
            self._restorer  # noqa: B018  # here its failure is not one of the picture
        group = [first]
        while len(group) < TOGETHER and self._reading:
            following = self._reading[0]
            if isinstance(following, Outcome) or not self._joins(group, following.picture):
                break
            self._reading.popleft()
            group.append(following)
            self._read_ahead()
        return group

    def _joins(self, group: list[_Reading], reading: Future[codec.Picture]) -> bool:
        first = group[0].picture
        if first.exception():
            return False
        pixels = first.result().pixels
        height, width, _ = pixels.shape
        if not gain_together(self._restorer, height, width, len(group) + 1):
            return False
        return not reading.exception() and alike(reading.result().pixels, pixels)

    def stop(self) -> list[Outcome]:
        """Begin nothing more; wait until what is being written is whole."""
        self._items = iter(())
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
            if self._plan.skip_existing and job.is_kept(error):
                outcome = Outcome.of(job, "skipped")  # another process was there before
            else:
                outcome = Outcome.of_error(job, error)
        self._writing.popleft()
        return outcome

    def _may_stay(self) -> bool:
        """Whether files may stay as they are. Before the networks are loaded it is assumed."""
        only = self._settings.get("only")
        loaded = self.__dict__.get("_restorer")  # the first pictures are read without it
        return only == FOUND or (
            only is None and (loaded is None or loaded.specialists is not None)
        )

    def _read(self, job: Job) -> codec.Picture:
        if job.target is not None:
            codec.writable(job.target.suffix)  # before any work
        keep = self._may_stay()
        if isinstance(job.source, Remote):
            return codec.read(job.source, keep=keep)
        if job.source is None:
            if sys.stdin is None:
                raise PictureError("-: standard input is closed: pipe an image in")
            return codec.decode(sys.stdin.buffer.read(), "-", keep)
        if job.source.is_fifo():
            raise PictureError("not a file; pipe it into standard input and give - instead")
        return codec.read(job.source, shown(job.source), keep)

    def _restored(self, group: list[_Reading]) -> Iterator[_Restored | Outcome]:
        """The pictures of a group together; if that fails each alone, so that one that cannot be
        restored does not take the others with it."""
        jobs = [reading.job for reading in group]
        try:
            results = self._restore(jobs, [reading.picture.result() for reading in group])
        except Exception as error:
            if len(group) == 1:
                yield Outcome.of_error(jobs[0], error)
            else:
                while group:
                    yield from self._restored([group.pop(0)])
            return
        group.clear()  # it holds the pictures
        while results:
            yield results.pop(0)

    def _restore(self, jobs: list[Job], pictures: list[codec.Picture]) -> list[_Restored]:
        """Pictures of one shape."""
        restorer = self._restorer
        pixels = stacked([picture.pixels for picture in pictures])
        peak = machine.Peak(restorer.device)
        start = time.perf_counter()
        results, runs = restorer.restore_batch(pixels, **self._settings)
        seconds = (time.perf_counter() - start) / len(pictures)
        return [
            self._result(job, picture, restored, run, seconds, peak.bytes())
            for job, picture, restored, run in zip(jobs, pictures, results, runs, strict=True)
        ]

    def _result(
        self,
        job: Job,
        picture: codec.Picture,
        restored: np.ndarray,
        run: Run,
        seconds: float,
        peak: int | None,
    ) -> _Restored:
        fields = self._fields(picture, run, seconds, peak)
        stays = (
            run.found == ()
            and self._quality is None
            and np.array_equal(restored, picture.pixels)
            and codec.is_same(picture.format, self._format_of(job, picture))
            and (job.source is None or job.target is None or _same_suffix(job.source, job.target))
        )
        if stays:  # what was noted when it was read is true of its pixels, and not of the file
            fields["notes"] = list(run.notes)
        content = picture.content if stays else None
        return _Restored(job, fields, replace(picture, pixels=restored, content=content))

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
            "found": None if run.found is None else list(run.found),
            "seconds": round(seconds, 3),
            "peak_memory_bytes": peak,
            "notes": [*picture.notes, *run.notes],
        }

    def _write(self, job: Job, picture: codec.Picture) -> list[str]:
        if job.target is None:
            if sys.stdout is None:
                raise PictureError("-: standard output is closed: give a file to write to")
            buffer = BytesIO()
            notes = codec.encode(picture, buffer, self._format_of(job, picture), self._quality)
            with naming(Path("standard output")):
                sys.stdout.buffer.write(buffer.getbuffer())
                sys.stdout.buffer.flush()
            return notes
        return codec.write(picture, job.target, self._quality, self._plan.overwrite)

    def _format_of(self, job: Job, picture: codec.Picture) -> str:
        """Of a result: as its name says. On standard output: as the plan says, else as the input's
        name says, else as the input is."""
        if job.target is not None:
            return codec.writable(job.target.suffix)
        if self._plan.ext:
            return codec.writable(f".{self._plan.ext.lstrip('.')}")
        if job.source is not None:
            return codec.writable(job.source.suffix)
        return picture.format if picture.format in codec.KEPT_BY_PIPES else "PNG"


def _same_suffix(source: Path | Remote, target: Path | Remote) -> bool:
    """Whether a file may have the other's name: formats of several kinds tell them by it."""
    return _short_suffix(source.suffix) == _short_suffix(target.suffix)


def _short_suffix(suffix: str) -> str:
    suffix = suffix.lower()
    return {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)
