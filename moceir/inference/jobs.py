"""Pictures to restore, and what became of them. Does not need torch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from moceir.errors import ConfigError, is_expected
from moceir.files import described, shown
from moceir.inference.manifest import Manifest
from moceir.inference.sources import DASH
from moceir.pictures.remote import Remote


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path | Remote | None
    """None: standard input."""
    target: Path | Remote | None
    """None: standard output."""
    name: str | None = field(default=None, compare=False)
    """Of the result in the folder of results, if there is one."""

    def is_done(self) -> bool:
        """Whether something bears the name of the result.

        Raises:
            OSError: nobody can tell: a folder that may not be searched, too long a name, ...
        """
        if self.target is None:
            return False
        if isinstance(self.target, Remote):
            return self.target.exists()
        try:
            self.target.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_kept(self, error: Exception) -> bool:
        """Whether writing failed because the result is there, not because a folder is a file."""
        return isinstance(error, FileExistsError) and error.filename == str(self.target)

    def __str__(self) -> str:
        return shown(self.source or DASH)


@dataclass
class Outcome:
    """What became of one image."""

    input: str
    output: str
    status: str
    """restored (or degraded), skipped, planned or failed"""
    error: str | None = None
    width: int | None = None
    height: int | None = None
    channels: str | None = None
    """grey, grey+alpha, RGB or RGBA"""
    bits: int | None = None
    device: str | None = None
    backend: str | None = None
    precision: str | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    experts: list[list[int]] | None = None
    """for each tile (one if whole), the expert of each decoder block"""
    found: list[str] | None = None
    """with ``only="found"``: the kinds of degradation that were found"""
    seconds: float | None = None
    """in the network; images that went through it together share the time equally"""
    peak_memory_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
    argument: str | None = None
    """if it failed: the argument to change, as in ``MoceirError``"""
    traceback: str | None = field(default=None, repr=False)
    """if it failed: where. Text, because an exception would keep the image in memory"""

    @classmethod
    def of(cls, job: Job, status: str, **values: Any) -> Outcome:
        source, target = (str(p) if p else "-" for p in (job.source, job.target))
        return cls(source, target, status, **values)

    @classmethod
    def of_error(cls, job: Job, error: Exception) -> Outcome:
        """Of a picture that failed, with one line that names it and says why."""
        name = shown(job.source or DASH)
        if isinstance(error, OSError) and error.filename:
            return cls.of(job, "").failed(error, described(error))
        reason = described(error) if isinstance(error, OSError) else str(error)
        reason = reason or type(error).__name__
        if not is_expected(error):
            reason = f"unexpected {type(error).__name__}: {reason}"
        return cls.of(job, "").failed(
            error, reason if reason.startswith(name) else f"{name}: {reason}"
        )

    def failed(self, error: Exception, text: str) -> Outcome:
        """The same image, failed."""
        where = "".join(traceback.format_exception(error))
        argument = getattr(error, "argument", None)
        return Outcome(self.input, self.output, "failed", text, argument=argument, traceback=where)

    def to_dict(self) -> dict[str, Any]:
        """What is known of it, as the lines of ``moceir restore --json`` have it."""
        names = [f.name for f in fields(self) if f.name not in ("argument", "traceback")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Plan:
    """What ``restore_files`` will do: an iterable of jobs, and of outcomes that are already known
    (failed or skipped), in order.

    Args:
        items: a list; or an iterator, and then the plan can be gone through once.
        ext: format of a result on standard output; None: the input's.
        skip_existing: if another process writes an output in the meantime, it is kept and the
            image counts as skipped instead of failed.
        overwrite: replace existing outputs.
        manifest: where outcomes are noted.
    """

    def __init__(
        self,
        items: Iterable[Job | Outcome],
        *,
        ext: str | None = None,
        skip_existing: bool = False,
        overwrite: bool = False,
        manifest: Manifest | None = None,
    ) -> None:
        self._items = items
        self.ext, self.skip_existing, self.overwrite = ext, skip_existing, overwrite
        self.manifest = manifest
        self.total: int | None = len(items) if isinstance(items, Sequence) else None
        """How many images there are: known at once of few, and at the end of many."""

    def __iter__(self) -> Iterator[Job | Outcome]:
        if isinstance(self._items, Iterator):
            items, self._items = self._items, _Spent()
            return self._counted(items)
        return iter(self._items)

    def _counted(self, items: Iterator[Job | Outcome]) -> Iterator[Job | Outcome]:
        count = 0
        for item in items:
            yield item
            count += 1
        self.total = count

    @contextmanager
    def noting(self, report: Callable[[Outcome], None]) -> Iterator[_Notes]:
        """While it is carried out: a function that takes each outcome to ``report`` and into the
        manifest.

        Raises:
            OSError: the manifest cannot be written.
        """
        if self.manifest is not None:
            self.manifest.open()
        try:
            yield _Notes(self.manifest, report)
        finally:
            if self.manifest is not None:
                self.manifest.close()


class _Notes:
    def __init__(self, manifest: Manifest | None, report: Callable[[Outcome], None]) -> None:
        self._manifest, self._report = manifest, report
        self.counts: dict[str, int] = {}

    def __call__(self, outcome: Outcome) -> None:
        self.counts[outcome.status] = self.counts.get(outcome.status, 0) + 1
        if self._manifest is not None:
            self._manifest.write(outcome)
        self._report(outcome)


class _Spent:
    """Of a plan that has been gone through."""

    def __iter__(self) -> Iterator[Job | Outcome]:
        raise ConfigError("a plan of many images can be gone through once: make another")
