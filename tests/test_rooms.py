"""The rooms of the house: which may import which.

``python tests/test_rooms.py`` prints every arrow between the rooms of ``moceir``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS = (
    {"errors"},
    {"config", "files", "machine"},
    {"pictures"},
    {"weights", "data"},
    {"model"},
    {"inference"},
    {"evaluation"},
    {"training", "figures"},
    {"web"},
    {"commands"},
)
"""Rooms of ``moceir`` from the ground up. A room imports from itself and from floors below."""


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT / package).parts[0].removesuffix(".py"), path


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it: ``moceir.x.y`` or ``moceir.x`` of names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[tuple[str, str], list[str]]:
    """From room to room of ``moceir``, and the files that make it so."""
    rooms = {room for room, _ in modules("moceir")}
    found: dict[tuple[str, str], list[str]] = {}
    for room, path in modules("moceir"):
        for name in imported(path):
            package, *rest = name.split(".")
            if package == "moceir" and rest and rest[0] in rooms:
                found.setdefault((room, rest[0]), []).append(str(path.relative_to(ROOT)))
    return {key: files for key, files in sorted(found.items()) if key[0] != key[1]}


def test_every_room_has_a_floor() -> None:
    rooms = {room for room, _ in modules("moceir")} - {"__init__"}
    floors = [room for floor in FLOORS for room in floor]
    assert sorted(floors) == sorted(rooms)


def test_no_arrow_turns_round() -> None:
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    for (room, other), files in arrows().items():
        if room != "__init__":
            assert floor[other] < floor[room], f"{room} imports {other}: {', '.join(files)}"


def test_kernels_know_no_networks() -> None:
    for _, path in modules("moce_kernels"):
        assert not [name for name in imported(path) if name.split(".")[0] == "moceir"], path


def test_nothing_is_too_long_to_read() -> None:
    """450 lines a file; 80 a function, without its docstring."""
    for package in ("moce_kernels", "moceir"):
        for _, path in modules(package):
            text = path.read_text()
            assert text.count("\n") <= 450, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    code = node.body[1 if ast.get_docstring(node) else 0 :] or node.body
                    lines = (node.end_lineno or 0) - code[0].lineno + 1
                    assert lines <= 80, f"{path}: {node.name} has {lines} lines"


if __name__ == "__main__":
    for (room, other), files in arrows().items():
        print(f"{room} -> {other}  ({len(files)})")
