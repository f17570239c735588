"""Which files in a folder are pictures, by their names. Loads neither torch nor a decoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
"""Names that end so are taken for pictures in a folder."""

SORTED = 10_000
"""Names of one folder that are held, and sorted, at once."""


def is_picture(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file of this name is taken for a picture. Systems keep files of their own under
    hidden names."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def walk_names(
    folder: str,
    suffixes: Sequence[str],
    *,
    on_error: Callable[[OSError], None],
    recursive: bool = True,
    skip: Path | None = None,
) -> Iterator[str]:
    """The files of a folder whose names end so, then those of the folders in it, each by its path
    in the folder. Memory stays flat however many there are.

    Files of one folder come in order; of one with more than ``SORTED`` names, so many at a time as
    the file system lists them, each lot in order.

    Hidden names and linked folders, which may lead round in circles, are left out, as is the folder
    ``skip``. Folders that cannot be read go to ``on_error``. Names that lead nowhere, or to no
    file, are not left out: whoever opens them says what is wrong.
    """
    skipped = os.path.realpath(skip) if skip else None
    pending = [""]
    while pending:
        inner = pending.pop()
        inside: list[str] = []
        try:
            with os.scandir(os.path.join(folder, inner) if inner else folder) as entries:
                while lot := sorted(islice(entries, SORTED), key=lambda entry: entry.name):
                    for entry in lot:
                        name = os.path.join(inner, entry.name)
                        if _is_folder(entry, on_error):
                            if not entry.name.startswith("."):
                                inside.append(name)
                        elif is_picture(entry.name, suffixes) and not _is_linked_folder(entry):
                            yield name
        except OSError as error:
            on_error(error)
        if recursive:
            pending += [
                name
                for name in sorted(inside, reverse=True)
                if skipped is None or os.path.realpath(os.path.join(folder, name)) != skipped
            ]


def _is_folder(entry: os.DirEntry[str], on_error: Callable[[OSError], None]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError as error:
        on_error(error)
        return False


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and os.path.isdir(entry.path)


def walk_pictures(
    folder: Path, suffixes: Sequence[str], *, on_error: Callable[[OSError], None]
) -> Iterator[Path]:
    """``walk_names`` as paths."""
    for name in walk_names(str(folder), suffixes, on_error=on_error):
        yield folder / name
