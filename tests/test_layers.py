"""Which subpackages may import which, and how long files and functions may be.

``python tests/test_layers.py`` prints every import between the subpackages of ``moceir``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LAYERS = (
    {"errors"},
    {"config", "files", "machine"},
    {"pictures", "cli"},
    {"weights", "data"},
    {"model"},
    {"inference"},
    {"evaluation"},
    {"training", "figures"},
    {"web", "integrations"},
    {"commands"},
)
"""Subpackages of ``moceir``, lowest first. Each imports only from itself and from layers below."""


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT / package).parts[0].removesuffix(".py"), path


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions, such as ``moceir.x.y``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports() -> dict[tuple[str, str], list[str]]:
    """Imports between subpackages of ``moceir``, and the files that contain them."""
    packages = {package for package, _ in modules("moceir")}
    found: dict[tuple[str, str], list[str]] = {}
    for importer, path in modules("moceir"):
        for name in imported(path):
            package, *rest = name.split(".")
            if package == "moceir" and rest and rest[0] in packages:
                found.setdefault((importer, rest[0]), []).append(str(path.relative_to(ROOT)))
    return {key: files for key, files in sorted(found.items()) if key[0] != key[1]}


def test_every_subpackage_has_a_layer() -> None:
    packages = {package for package, _ in modules("moceir")} - {"__init__"}
    assert sorted(package for layer in LAYERS for package in layer) == sorted(packages)


def test_no_import_goes_up() -> None:
    height = {package: height for height, layer in enumerate(LAYERS) for package in layer}
    for (package, other), files in imports().items():
        if package != "__init__":
            assert height[other] < height[package], f"{package} imports {other}: {', '.join(files)}"


def test_kernels_do_not_import_networks() -> None:
    for _, path in modules("moce_kernels"):
        assert not [name for name in imported(path) if name.split(".")[0] == "moceir"], path


def test_files_and_functions_are_short() -> None:
    """At most 450 lines per file and 80 per function, without its docstring."""
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
    for (package, other), files in imports().items():
        print(f"{package} -> {other}  ({len(files)})")
