"""Which files in a folder are pictures, by their names. Loads neither torch nor a decoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
"""Names that end so are taken for pictures in a folder."""


def walk_pictures(
    folder: Path,
    suffixes: Sequence[str],
    *,
    on_error: Callable[[OSError], None],
    recursive: bool = True,
    skip: Path | None = None,
) -> Iterator[Path]:
    """The files of a folder whose names end so, in order, then those of the folders in it.

    Hidden names (systems keep files of their own under them) and linked folders, which may lead
    round in circles, are left out, as is the folder ``skip``. Folders that cannot be read, and
    links to what cannot be reached, go to ``on_error``.
    """
    skipped = os.path.realpath(skip) if skip else None
    for place, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = sorted(
            name
            for name in folders
            if recursive
            and not name.startswith(".")
            and os.path.realpath(os.path.join(place, name)) != skipped
        )
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() not in suffixes or name.startswith("."):
                continue
            try:
                if path.is_file():
                    yield path
            except OSError as error:  # a link into a folder that may not be searched
                on_error(error)
