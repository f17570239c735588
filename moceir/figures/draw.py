"""What the figures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from moceir.errors import ConfigError
from moceir.files import make_folder, whole_file

EXPERTS = ("#4c9f70", "#7fb3d5", "#e0a458", "#b23a48")
"""Colours of the experts, the cheapest first."""

FORMATS = (".png", ".svg", ".pdf")


def new(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def check_outputs(paths: Sequence[Path]) -> None:
    """Reject names with an unsupported suffix.

    Raises:
        ConfigError: a suffix that is not in ``FORMATS``.
    """
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise ConfigError(f"{path}: the name must end in {', '.join(FORMATS)}")


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure to each path, in the format of its suffix, atomically.

    The same figure gives the same file.

    Raises:
        OSError: a file cannot be written.
    """
    for path in paths:
        make_folder(path.parent)
        kind = path.suffix.lower().removeprefix(".")
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
            kind, {}
        )
        drawn = BytesIO()  # Pillow does not notice that the disk is full
        with matplotlib.rc_context({"svg.hashsalt": "moceir"}):
            figure.savefig(drawn, format=kind, dpi=160, metadata=metadata)
        with whole_file(path) as temporary:
            temporary.write_bytes(drawn.getbuffer())
