"""Which picture becomes which file, and what became of it. Needs no torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moceir.errors import ConfigError, PictureError
from moceir.pictures.folders import SUFFIXES, walk_pictures

DASH = Path("-")
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
        return shown(self.source)


@dataclass
class Outcome:
    """What became of one picture: a line of ``--json``."""

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
    """in the network; of pictures that it had together, a share"""
    peak_memory_bytes: int | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job, status: str, **fields: Any) -> Outcome:
        source, target = (str(p) if p else "-" for p in (job.source, job.target))
        return cls(source, target, status, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def shown(path: Path | None) -> str:
    """A path as it is printed: on one line, whatever is in the name."""
    if path is None:
        return "-"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def plan(
    inputs: Sequence[Path],
    output: Path,
    *,
    recursive: bool = True,
    ext: str | None = None,
    suffix: str = "",
) -> tuple[list[Job], list[Outcome]]:
    """Every picture with the place of its result, in order, and what failed already: missing
    files, folders without pictures, folders that cannot be read.

    Args:
        inputs: files, folders, patterns for names (where nothing bears the very name), or ``-``.
        output: a file, if there is one input and no folder; or a folder, which gets the names
            (and from folders the tree) of the inputs; or ``-``.
        recursive: also take the pictures in the folders of a folder.
        ext: what the names of the results end with instead.
        suffix: what is added to the names of the results, before their ending.

    Raises:
        ConfigError: settings that do not go together; two pictures with the same result.
    """
    if ext is not None:
        ext = f".{ext.lstrip('.')}"
    for option, text in (("--ext", ext or ""), ("--suffix", suffix)):
        if "/" in text or os.sep in text:
            raise ConfigError(f"{option} {text!r}: give a part of a name, without folders")
    sources: list[tuple[Path | None, Path]] = []  # and what is to be named after them
    failures: list[Outcome] = []

    def failed(path: Path, reason: str) -> None:
        failures.append(Outcome(str(path), str(output), "failed", error=reason))

    for given in inputs:
        try:
            for path in [given] if given == DASH or os.path.lexists(given) else _matches(given):
                if path == DASH:
                    sources.append((None, Path(f"stdin{ext or '.png'}")))
                elif os.path.isdir(path):  # Path.is_dir raises where it may not look
                    found = _in_folder(path, recursive, output, failed)
                    sources += [(p, p.relative_to(path)) for p in found]
                else:
                    sources.append((path, Path(path.name)))
        except PictureError as error:
            failed(given, str(error))
    if not sources:
        return [], failures

    if output == DASH:
        if len(sources) != 1:
            raise ConfigError(f"-o - takes one picture, not {len(sources)}: give a folder")
        return [Job(sources[0][0], None)], failures
    one = len(inputs) == 1 and len(sources) == 1 and not os.path.isdir(inputs[0])
    if one and output.suffix and not output.is_dir():
        if ext or suffix:
            raise ConfigError(
                f"{shown(output)} is a whole name: leave --ext and --suffix out, or give a folder"
            )
        return [Job(sources[0][0], output)], failures
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{shown(output)} is a file: give a folder for the results")

    jobs: dict[str, Job] = {}
    for source, name in sources:
        target = output / name.with_name(f"{name.stem}{suffix}{ext or name.suffix}")
        place = os.path.abspath(target)
        if place in jobs:
            if jobs[place].source == source:
                continue  # named twice
            raise ConfigError(
                f"{jobs[place]} and {shown(source)} would both become {shown(target)}: "
                "restore them apart"
            )
        jobs[place] = Job(source, target)
    # What an earlier run wrote beside its inputs is no input of this one.
    mine = [
        job for job in jobs.values() if jobs.get(os.path.abspath(job.source or "-"), job) == job
    ]
    return mine, failures


def _matches(pattern: Path) -> list[Path]:
    """For shells that leave patterns as they are."""
    matches = sorted(Path(m) for m in glob.glob(str(pattern), recursive=True))
    if not matches:
        what = "no file matches this pattern" if glob.has_magic(str(pattern)) else "no such file"
        raise PictureError(f"{shown(pattern)}: {what}")
    return matches


def _in_folder(
    folder: Path, recursive: bool, output: Path, failed: Callable[[Path, str], None]
) -> list[Path]:
    unread = []

    def unreadable(error: OSError) -> None:
        unread.append(error)
        place = Path(error.filename)
        failed(place, f"{shown(place)}: {error.strerror}")

    found = list(
        walk_pictures(
            folder, FOLDER_SUFFIXES, recursive=recursive, skip=output, on_error=unreadable
        )
    )
    if not found and not unread:
        deeper = "" if recursive else "; --recursive looks deeper"
        raise PictureError(
            f"{shown(folder)}: no pictures in it (looked for {', '.join(FOLDER_SUFFIXES)}{deeper})"
        )
    return found
