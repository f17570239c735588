from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that PyTorch allocates, for the kernels too, holds NaN until it is written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.backends.cudnn.allow_tf32 = False  # plain PyTorch in float32 is what we compare with
    yield
    torch.use_deterministic_algorithms(False)
