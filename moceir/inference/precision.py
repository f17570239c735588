"""The precision in which a network restores."""

from __future__ import annotations

from pathlib import Path

import torch

from moceir.config import PRECISIONS
from moceir.errors import ConfigError
from moceir.model import MoCEIR
from moceir.weights.bundled import BUNDLED, TOGETHER

AUTO = "auto"

NEAR = (TOGETHER, *BUNDLED)
"""Networks that were measured in bfloat16, and lose 0.01 dB by it on average (docs/performance.md,
bfloat16 on CPUs)."""


def chosen(precision: str | None, model: MoCEIR | str | Path | None, device: torch.device) -> str:
    """One of ``PRECISIONS``.

    Args:
        precision: one of them; None: float32; ``auto``: bfloat16 for the bundled weights on GPUs
            that have it (compute capability 8.0), which is about twice as fast there, else
            float32.
        model, device: as ``Restorer`` takes them.

    Raises:
        ConfigError: another precision.
    """
    if precision == AUTO:
        near = model is None or (isinstance(model, str) and model in NEAR)
        gpu = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "bfloat16" if near and gpu else "float32"
    precision = precision or "float32"
    if precision not in PRECISIONS:
        raise ConfigError(
            f"unknown precision {precision!r}: choose {AUTO}, {', '.join(PRECISIONS)}", "precision"
        )
    return precision
