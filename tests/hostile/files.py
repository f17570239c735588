"""Files by name: what they contain, or how they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Made = dict[str, bytes | Callable[[Path], object]]


def write(folder: Path, made: Made) -> list[Path]:
    paths = []
    for name, content in made.items():
        path = folder / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        paths.append(path)
    return paths


def sparse_file(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
