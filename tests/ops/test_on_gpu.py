"""The kernels for GPUs on a GPU. Without one they are skipped, and ``test_cuda_kernels.py`` and
Triton's interpreter stand in. MOCE_TEST_DEVICE=cpu tries these tests themselves on a CPU."""

from __future__ import annotations

import os

import pytest
import torch

from moce_kernels.backends import BACKENDS, why_not
from tests.ops.spec import DTYPES, SPECS, OpSpec
from tests.ops.test_all_ops import check_against_float64, run

DEVICE = os.environ.get("MOCE_TEST_DEVICE", "cuda")
KERNELS = [
    pytest.param(spec, backend, id=f"{spec.name}-{backend}")
    for spec in SPECS
    for backend in BACKENDS
    if backend != "reference"
]
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no NVIDIA GPU"
)


def skip_unless_it_runs(backend: str, operator: str) -> None:
    reason = why_not(backend, operator, torch.device(DEVICE))
    if reason:
        pytest.skip(f"{backend}: {reason}")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(("spec", "backend"), KERNELS)
def test_no_worse_than_twice_plain_pytorch(
    spec: OpSpec, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_it_runs(backend, spec.name)
    # Plain PyTorch is to be float32 where it says so.
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check_against_float64(spec, backend, dtype, DEVICE)


@pytest.mark.parametrize(("spec", "backend"), KERNELS)
def test_deterministic(spec: OpSpec, backend: str) -> None:
    skip_unless_it_runs(backend, spec.name)
    for sample in spec.samples():
        first = run(sample, backend, torch.float32, DEVICE)
        again = run(sample, backend, torch.float32, DEVICE)
        assert all(torch.equal(first[name], again[name]) for name in first), sample.name


@pytest.mark.parametrize(("spec", "backend"), KERNELS)
def test_compiles_whole(spec: OpSpec, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_unless_it_runs(backend, spec.name)
    sample = next(spec.tiny())

    def call(leaves: dict[str, torch.Tensor]) -> torch.Tensor:
        return sample.call(backend, **leaves) * 2

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    results = []
    for function in (call, compiled):
        cast = sample.cast(torch.float32, DEVICE)
        leaves = {name: t.requires_grad_() for name, t in cast.items()}
        out = function(leaves)
        results.append((out, *torch.autograd.grad(out.square().sum(), list(leaves.values()))))
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-5, atol=1e-5)
