"""Kernels in Triton: no compiler is needed but the one that comes with it.

Importing this package imports no kernel and no Triton; ``load`` does, and registers the kernels as
the implementation of the operators in ``moce_kernels_triton``.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from typing import Any

from moce_kernels import registry


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
    for operator in (*registry.names("triton"), "fold_norm"):
        importlib.import_module(f"{__name__}.{operator}")
    _say_when_compiling()
    return None


def _say_when_compiling() -> None:
    """Log one line when one of these kernels has to be compiled, for the first call then takes
    long. What is in Triton's cache is loaded without a word."""
    from triton import knobs

    before, said = knobs.compilation.listener, False

    def listener(*, src: Any, cache_hit: bool, **rest: Any) -> None:
        nonlocal said
        kernel = getattr(src, "fn", None)  # a source in Triton's own language has none
        if not (cache_hit or said) and getattr(kernel, "module", "").startswith(__name__):
            said = True
            logging.getLogger(__name__).warning(
                "Compiling Triton kernels. They are cached in %s, so the next run need not. "
                "To compile them in advance, use `moceir precompile` (docs/kernels.md).",
                knobs.cache.dir,
            )
        if before is not None:
            before(src=src, cache_hit=cache_hit, **rest)

    knobs.compilation.listener = listener
