"""Kernels in Triton: no compiler is needed but the one that comes with it.

Importing this package imports no kernel and no Triton; ``load`` does, and registers the kernels as
the implementation of the operators in ``moce_kernels_triton``.
"""

from __future__ import annotations

import functools
import importlib
import os

OPERATORS = (
    "channel_attention",
    "depthwise_conv",
    "fft_attention",
    "gated_depthwise_conv",
    "gated_feedforward",
    "grouped_experts",
    "pointwise_conv",
    "projected_depthwise_conv",
    "routing_plan",
    "transposed_attention",
    "window_fft_conv",
)


def interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter, on any device: for tests, slowly."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def load() -> str | None:
    """Import Triton and register the kernels, once. Returns why that failed, or None."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton does not load: {error}"
    for operator in OPERATORS:
        importlib.import_module(f"{__name__}.{operator}")
    return None
