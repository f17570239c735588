"""Which pictures are given: files, folders, patterns and lists, local or remote. Needs no torch."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from moceir.errors import ConfigError, PictureError
from moceir.files import described, shown
from moceir.pictures.folders import SUFFIXES, walk_names
from moceir.pictures.remote import Remote, is_url, place

DASH = Path("-")
"""Standard input or output."""

FOLDER_SUFFIXES = (*SUFFIXES, ".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl")
"""Names in a folder that end so are taken for pictures."""


class Found(NamedTuple):
    """A picture, and what its result is to be named after."""

    source: Path | Remote | None
    """None: standard input."""
    name: str
    """A path in the folder of the results."""


class Unusable(NamedTuple):
    """What was given and cannot be restored."""

    given: Path | Remote
    error: Exception
    reason: str


def matches(given: Path | Remote) -> list[Path | Remote]:
    """What one argument stands for: itself or, for shells that leave patterns as they are, the
    files that it matches.

    Raises:
        PictureError: there is no such thing.
    """
    found: list[Path | Remote]
    if isinstance(given, Remote):
        if glob.has_magic(given.url):
            found = [*given.matches()]
        else:
            # A web server's refusal would look like a missing file: it is said when it is read.
            there = given.protocol in ("http", "https") or given.is_dir() or given.exists()
            found = [given] if there else []
    elif given == DASH or os.path.lexists(given):
        return [given]
    else:
        found = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]
    if not found:
        what = "no file matches this pattern" if glob.has_magic(str(given)) else "no such file"
        raise PictureError(f"{shown(given)}: {what}")
    return found


def is_folder(given: Path | Remote) -> bool:
    # Path.is_dir raises where it may not look.
    return given.is_dir() if isinstance(given, Remote) else os.path.isdir(given)


def find(
    inputs: Sequence[Path | Remote], output: Path | Remote, recursive: bool, stdin_name: str
) -> Iterator[Found | Unusable]:
    """Every picture of the arguments, in order. Folders are read as they are gone through."""
    for given in inputs:
        try:
            for path in matches(given):
                if path == DASH:
                    yield Found(None, stdin_name)
                elif is_folder(path):
                    yield from _in_folder(path, recursive, output)
                else:
                    yield Found(path, path.name)
        except PictureError as error:
            yield Unusable(given, error, str(error))
        except OSError as error:  # of a remote one
            yield Unusable(given, error, described(error))


def _in_folder(
    folder: Path | Remote, recursive: bool, output: Path | Remote
) -> Iterator[Found | Unusable]:
    problems: list[OSError] = []
    empty = True
    for name in _names(folder, recursive, output, problems.append):
        while problems:
            yield _unreadable(folder, problems.pop(0))
            empty = False
        yield Found(folder / name, name)
        empty = False
    empty &= not problems
    yield from (_unreadable(folder, error) for error in problems)
    if empty:
        looked = ", ".join(FOLDER_SUFFIXES)
        text = f"{shown(folder)}: no images in it (looked for {looked})"
        if recursive:
            raise PictureError(text)
        raise PictureError(f"{text}: search its subfolders too", "recursive")


def _names(
    folder: Path | Remote,
    recursive: bool,
    output: Path | Remote,
    on_error: Callable[[OSError], None],
) -> Iterator[str]:
    if isinstance(folder, Remote):
        skip = output if isinstance(output, Remote) else None
        return folder.walk_names(FOLDER_SUFFIXES, on_error=on_error, recursive=recursive, skip=skip)
    local = output if isinstance(output, Path) else None
    return walk_names(
        str(folder), FOLDER_SUFFIXES, on_error=on_error, recursive=recursive, skip=local
    )


def _unreadable(folder: Path | Remote, error: OSError) -> Unusable:
    return Unusable(place(str(error.filename or folder)), error, described(error))


def listed(names: Iterable[Path | str], base: Path | Remote) -> Iterator[Found | Unusable]:
    """Pictures by their names in the folder ``base``, as a list has them. None is looked for."""
    root = base.url.rstrip("/") if isinstance(base, Remote) else os.path.abspath(base)
    normal = posixpath.normpath if isinstance(base, Remote) else os.path.normpath
    for given in names:
        inner = text = str(given)
        if isinstance(base, Remote):
            inner = text.removeprefix(f"{root}/")
        elif os.path.isabs(text):
            with suppress(ValueError):  # on another drive of Windows: it stays absolute
                inner = os.path.relpath(text, root)
        elsewhere = is_url(inner)
        inner = normal(inner)
        if elsewhere or _leads_out(inner):
            error = PictureError(
                f"{shown(text)}: not in {shown(base)}: give the folder that all of them are in "
                "as the input"
            )
            yield Unusable(place(text), error, str(error))
        else:
            yield Found(base / inner, inner)


def _leads_out(name: str) -> bool:
    return os.path.isabs(name) or (name.startswith("..") and Path(name).parts[0] == "..")


def read_list(file: BinaryIO, null: bool = False) -> Iterator[str]:
    """The names in a list of files: one a line, or each ended by NUL, as ``find -print0`` has
    them. Empty ones are left out."""
    rest = b""
    while block := file.read(1 << 16):
        if not null and b"\0" in block:
            raise ConfigError("the names in the list end with NUL: read them so", "null")
        *names, rest = (rest + block).split(b"\0" if null else b"\n")
        for name in names if null else (name.removesuffix(b"\r") for name in names):
            if name:
                yield os.fsdecode(name)
    if rest:
        yield os.fsdecode(rest)
