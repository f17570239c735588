from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from moce_kernels import triton_kernels


def pytest_configure() -> None:
    """Makes Triton's interpreter twice as fast: it puts its own functions into ``tl`` for a kernel,
    and again whenever the kernel calls a function."""
    if not triton_kernels.interpreted():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    patch = getattr(interpreter, "_patch_lang", None)
    if patch is None:  # of another version: it works as it is
        return

    @functools.cache
    def languages(function: Any) -> list[Any]:
        return [m for m in function.__globals__.values() if m is tl or m is tl.core]

    def patch_once(function: Any) -> Any:
        if any(tl.core.is_builtin(m.load) for m in languages(function)):
            return patch(function)
        return None

    interpreter._patch_lang = patch_once


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that PyTorch allocates, for the kernels too, holds NaN until it is written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.backends.cudnn.allow_tf32 = False  # plain PyTorch in float32 is what we compare with
    yield
    torch.use_deterministic_algorithms(False)
