"""Which picture becomes which file, and the outcome. Does not need torch."""

from __future__ import annotations

import errno
import glob
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from moceir.errors import ConfigError, PictureError
from moceir.files import described, shown
from moceir.pictures.folders import SUFFIXES, walk_pictures

DASH = Path("-")
"""Standard input or output."""

FOLDER_SUFFIXES = (*SUFFIXES, ".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl")
"""Names in a folder that end so are taken for pictures."""


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path | None
    """None: standard input."""
    target: Path | None
    """None: standard output."""

    def is_done(self) -> bool:
        """Whether something bears the name of the result.

        Raises:
            OSError: nobody can tell: a folder that may not be searched, too long a name, ...
        """
        if self.target is None:
            return False
        try:
            self.target.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def __str__(self) -> str:
        return shown(self.source or DASH)


@dataclass
class Outcome:
    """What became of one image."""

    input: str
    output: str
    status: str
    """restored, skipped, planned or failed"""
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

    def failed(self, error: Exception, text: str) -> Outcome:
        """The same image, failed."""
        where = "".join(traceback.format_exception(error))
        argument = getattr(error, "argument", None)
        return Outcome(self.input, self.output, "failed", text, argument=argument, traceback=where)

    def to_dict(self) -> dict[str, Any]:
        """What is known of it, as the lines of ``moceir restore --json`` have it."""
        names = [f.name for f in fields(self) if f.name not in ("argument", "traceback")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Plan:
    """What ``restore_files`` will do.

    Args:
        jobs: the images to restore, in order.
        settled: outcomes that are already known: failed or skipped.
        ext: format of a result on standard output; None: the input's.
        skip_existing: if another process writes an output in the meantime, it is kept and the
            image counts as skipped instead of failed.
        overwrite: replace existing outputs.
    """

    jobs: list[Job]
    settled: list[Outcome] = field(default_factory=list)
    ext: str | None = None
    skip_existing: bool = False
    overwrite: bool = False


def plan_files(
    inputs: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    recursive: bool = True,
    ext: str | None = None,
    suffix: str = "",
    skip_existing: bool = False,
    overwrite: bool = False,
) -> Plan:
    """Decide which images become which files. Nothing is written, and no image is opened.

    Missing inputs, folders without images and folders that cannot be read are ``settled`` as
    failed, and do not stop the rest.

    Args:
        inputs: files, folders, glob patterns (unless a file has that very name), or ``-`` for
            standard input.
        output: a file for a single image; a folder, in which outputs get the names of the inputs
            and the structure of input folders; or ``-`` for standard output.
        recursive: descend into subfolders.
        ext: format and file extension of the outputs, such as ``png``; None: the input's.
        suffix: appended to the names of the outputs, before the extension.
        skip_existing: skip images whose output exists.
        overwrite: replace existing outputs.

    Raises:
        ConfigError: arguments that contradict each other; two images with the same output.
        FileExistsError: an output exists, and neither ``skip_existing`` nor ``overwrite`` is set.
    """
    if skip_existing and overwrite:
        raise ConfigError("skip_existing and overwrite: choose one")
    given = [inputs] if isinstance(inputs, (str, Path)) else inputs
    planned, settled = _planned([Path(i) for i in given], Path(output), recursive, ext, suffix)
    there: list[Job] = []
    jobs: list[Job] = []
    for job in planned:
        try:
            (there if job.is_done() and not overwrite else jobs).append(job)
        except OSError as error:
            settled.append(Outcome.of(job, "").failed(error, described(error)))
    if there and not skip_existing:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise FileExistsError(errno.EEXIST, f"already there{more}", str(there[0].target))
    settled += [Outcome.of(job, "skipped") for job in there]
    return Plan(jobs, settled, ext, skip_existing, overwrite)


def _planned(
    inputs: Sequence[Path], output: Path, recursive: bool, ext: str | None, suffix: str
) -> tuple[list[Job], list[Outcome]]:
    """Every picture with the place of its result, in order, and what failed already."""
    ending = None if ext is None else f".{ext.lstrip('.')}"
    for argument, text in (("ext", ending or ""), ("suffix", suffix)):
        if "/" in text or os.sep in text:
            raise ConfigError(
                f"{argument} {text!r}: give part of a file name, without folders", argument
            )
    sources, failures = _sources(inputs, output, recursive, ending)
    if not sources:
        return [], failures
    if output == DASH:
        if len(sources) != 1:
            raise ConfigError(
                f"standard output takes one image, not {len(sources)}: give a folder", "output"
            )
        return [Job(sources[0][0], None)], failures
    one = len(inputs) == 1 and len(sources) == 1 and not os.path.isdir(inputs[0])
    if one and output.suffix and not output.is_dir():
        if ext or suffix:
            raise ConfigError(
                f"{shown(output)} is a complete file name: leave ext and suffix out, or give "
                "a folder"
            )
        return [Job(sources[0][0], output)], failures
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{shown(output)} is a file: give a folder for the results", "output")

    jobs: dict[str, Job] = {}
    for source, name in sources:
        target = output / name.with_name(f"{name.stem}{suffix}{ending or name.suffix}")
        place = os.path.abspath(target)
        if place in jobs:
            if jobs[place].source == source:
                continue  # named twice
            raise ConfigError(
                f"{jobs[place]} and {shown(source or DASH)} would both become {shown(target)}: "
                "restore them separately"
            )
        jobs[place] = Job(source, target)
    # Outputs of an earlier run next to their inputs are not inputs of this one.
    mine = [
        job for job in jobs.values() if jobs.get(os.path.abspath(job.source or DASH), job) == job
    ]
    return mine, failures


def _sources(
    inputs: Sequence[Path], output: Path, recursive: bool, ending: str | None
) -> tuple[list[tuple[Path | None, Path]], list[Outcome]]:
    """Pictures, each with what its result is to be named after; and what failed."""
    sources: list[tuple[Path | None, Path]] = []
    failures: list[Outcome] = []

    def failed(path: Path, error: Exception, reason: str) -> None:
        failures.append(Outcome(str(path), str(output), "").failed(error, reason))

    for given in inputs:
        try:
            for path in [given] if given == DASH or os.path.lexists(given) else _matches(given):
                if path == DASH:
                    sources.append((None, Path(f"stdin{ending or '.png'}")))
                elif os.path.isdir(path):  # Path.is_dir raises where it may not look
                    found = _in_folder(path, recursive, output, failed)
                    sources += [(p, p.relative_to(path)) for p in found]
                else:
                    sources.append((path, Path(path.name)))
        except PictureError as error:
            failed(given, error, str(error))
    return sources, failures


def _matches(pattern: Path) -> list[Path]:
    """For shells that leave patterns as they are."""
    matches = sorted(Path(m) for m in glob.glob(str(pattern), recursive=True))
    if not matches:
        what = "no file matches this pattern" if glob.has_magic(str(pattern)) else "no such file"
        raise PictureError(f"{shown(pattern)}: {what}")
    return matches


def _in_folder(
    folder: Path, recursive: bool, output: Path, failed: Callable[[Path, Exception, str], None]
) -> list[Path]:
    unread = []

    def unreadable(error: OSError) -> None:
        unread.append(error)
        failed(Path(error.filename), error, described(error))

    found = list(
        walk_pictures(
            folder, FOLDER_SUFFIXES, recursive=recursive, skip=output, on_error=unreadable
        )
    )
    if not found and not unread:
        looked = ", ".join(FOLDER_SUFFIXES)
        text = f"{shown(folder)}: no images in it (looked for {looked})"
        if recursive:
            raise PictureError(text)
        raise PictureError(f"{text}: search its subfolders too", "recursive")
    return found
