"""What the package says about itself in several places agrees."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import moceir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_versions() -> None:
    assert PROJECT["version"] == moceir.__version__
    assert read_yaml("CITATION.cff")["version"] == moceir.__version__


@pytest.mark.parametrize("package", ["moceir", "moce_kernels"])
def test_types_are_for_users_too(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"][package]


def test_every_dependency_has_a_lower_bound() -> None:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (r for requirements in lists for r in requirements):
        assert re.match(r"moceir\[|[\w-]+(\[[\w,]+\])?(>=|==)\d", requirement), requirement


def test_ruff_is_the_same_before_a_commit() -> None:
    (pinned,) = [r for r in PROJECT["optional-dependencies"]["test"] if r.startswith("ruff")]
    repositories = read_yaml(".pre-commit-config.yaml")["repos"]
    (revision,) = [r["rev"] for r in repositories if r["repo"].endswith("/ruff-pre-commit")]
    assert pinned == f"ruff=={revision.removeprefix('v')}"


def test_workflows_try_every_python_that_is_named() -> None:
    words = [name.rsplit(" ", 1)[1] for name in PROJECT["classifiers"] if ":: Python :: 3." in name]
    matrix = read_yaml(".github/workflows/test.yml")["jobs"]["check"]["strategy"]["matrix"]
    assert matrix["python"] == words
