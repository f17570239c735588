"""The oldest versions of PyTorch and Triton that pyproject.toml admits, where check.sh put them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VARIABLE = "MOCE_OLDEST"


def version(package: str) -> str:
    """The lower bound of the package's versions, such as 2.11."""
    bound = re.search(rf'"{package}>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert bound, f"pyproject.toml has no lower bound for {package}"
    return bound[1]


def folder() -> Path:
    """With ``triton/``, to be put on Python's path, and a wheel of torch for its headers."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no folder with the oldest versions; check.sh makes one")
    return Path(os.environ[VARIABLE])
