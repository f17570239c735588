"""Every operator on every backend, beside ``torch.compile`` of its reference, in one run.

    python -m pytest bench -k fft_attention --benchmark-group-by=group

Inputs are what ``timed`` in ``tests/ops/samples/X.py`` yields, bytes and operations the ``cost``
that ``moce_kernels/ops/X.py`` declares.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from bench.conftest import device_of
from bench.microbenchmark import (
    CONTENDERS,
    DIRECTIONS,
    cost_of,
    images_and_side,
    measure,
    of_dtype,
    timed_samples,
)
from tests.ops.samples import SPECS
from tests.ops.spec import OpSpec


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each sample, whose names are known without memory for it."""
    config, meta = metafunc.config, torch.device("meta")
    size = images_and_side(device_of(config), config.getoption("--quick"))
    found = [
        pytest.param(spec, number, id=f"{spec.name}-{sample.name}")
        for spec in SPECS
        for number, sample in enumerate(timed_samples(spec, meta, *size))
    ]
    metafunc.parametrize(("spec", "number"), found)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_operator(
    benchmark: Any,
    spec: OpSpec,
    number: int,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    samples = timed_samples(spec, device, *images_and_side(device, quick))
    sample = next(itertools.islice(samples, number, None))
    tensors = of_dtype(sample, dtype)
    cost = cost_of(spec.name, sample, tensors)
    measure(benchmark, spec.name, contender, direction, sample, tensors, cost, quick)
