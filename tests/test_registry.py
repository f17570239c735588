"""What each operator declares, against what is there."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch

import moce_kernels
from moce_kernels import native, registry
from tests.ops.samples import SPECS, spec_of
from tests.ops.spec import OpSpec

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", registry.names())
def test_an_operator_bears_one_name(name: str) -> None:
    """Public function, reference, kernels and the section that explains them."""
    assert name in moce_kernels.__all__ and callable(getattr(moce_kernels, name))
    assert callable(getattr(importlib.import_module(f"moce_kernels.reference.{name}"), name))
    files = {
        "cpu": f"csrc/cpu/{name}.cpp",
        "cuda": f"csrc/cuda/{name}.cu",
        "triton": f"moce_kernels/triton_kernels/{name}.py",
    }
    declared = registry.OPERATORS[name].kernels
    assert {b for b, file in files.items() if (ROOT / file).exists()} == set(declared)
    headings = [
        line.removeprefix("### ")
        for line in (ROOT / "docs/kernel-internals.md").read_text().splitlines()
        if line.startswith("### ")
    ]
    assert any(name in heading.replace(",", " ").split() for heading in headings)


@pytest.mark.parametrize("name", registry.names("cpu"))
def test_the_cpu_library_has_what_is_declared(name: str) -> None:
    if reason := native.load("cpu"):
        pytest.skip(reason)
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"moce_kernels::{name}", "CPU")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_cost(spec: OpSpec) -> None:
    """It needs shapes alone; activations are read and the result written; twice the images cost
    twice as much."""
    costs = []
    for images in (16, 32):
        with torch.device("meta"):
            sample = next(spec.timed(images, 64))
        raw = sample.raw(**sample.tensors)
        costs.append(registry.OPERATORS[spec.name].cost(*raw))
        results = getattr(torch.ops.moce_kernels, spec.name)(*raw)
        out = results[0] if isinstance(results, tuple) else results
        activations = (t for name, t in sample.tensors.items() if name not in sample.master)
        assert costs[-1].bytes >= sum(t.nbytes for t in activations) + out.nbytes
    if spec.name != "routing_plan":  # whose benchmark has one size
        assert all(math.isclose(2 * a, b) for a, b in zip(*costs, strict=True))
    forward = costs[0].bytes, costs[0].operations
    assert all(a > b or a == b == 0 for a, b in zip(costs[0].with_backward, forward, strict=True))


def test_cost_by_hand() -> None:
    """A depthwise 3 x 3 convolution of 2 x 3 values: 9 products and sums each, in and out once."""
    x, weight = torch.empty(1, 1, 2, 3), torch.empty(1, 1, 3, 3)
    cost = registry.OPERATORS["depthwise_conv"].cost(x, weight, None, False)
    assert cost == (2 * 24, 6 * 18, 4 * 24, 2 * 6 * 18)
    with torch.device("meta"):
        (sample,) = spec_of("gated_feedforward").timed(1, 4)
    cost = registry.OPERATORS["gated_feedforward"].cost(*sample.raw(**sample.tensors))
    assert cost.bytes == 2 * 4 * 48 * 16  # x in and out, in float32
    assert cost.operations == 16 * (6 * 48 * 96 + 36 * 96)
