"""What holds for all tests."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers in every run, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
