"""The tests that every operator of the table gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from moce_kernels import registry
from moce_kernels.ops import _library
from tests.ops.samples import FILES, SPECS
from tests.ops.spec import CPU, DTYPES, OpSpec, Sample, device_of, skip_unless_it_runs

KERNELS = [pytest.param(s, k, id=f"{s.name}-{k}") for s in SPECS for k in s.kernels]
EACH = [pytest.param(s, id=s.name) for s in SPECS]


def test_every_operator_has_samples() -> None:
    """And every file in tests/ops/samples is an operator's."""
    assert set(registry.names()) == FILES


def run(
    sample: Sample,
    backend: str | None,
    dtype: torch.dtype,
    device: torch.device = CPU,
    seed: int = 1,
) -> dict[str, Tensor]:
    """The output and all gradients, under the same upstream gradient for every dtype."""
    leaves = {name: t.detach().requires_grad_() for name, t in sample.cast(dtype, device).items()}
    out = sample.call(backend, **leaves)
    torch.manual_seed(seed)
    grad = torch.randn(out.shape).to(sample_dtype(sample)).to(out)
    if out.dim() == 4 and next(iter(leaves.values())).stride(1) == 1:
        grad = grad.contiguous(memory_format=torch.channels_last)
    if out.numel() == 0 and not out.requires_grad:  # the reference ran no expert at all
        grads = tuple(map(torch.zeros_like, leaves.values()))
    else:
        grads = torch.autograd.grad(out, list(leaves.values()), grad)
    results = {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}
    return {name: t.cpu() for name, t in results.items()}


def sample_dtype(sample: Sample) -> torch.dtype:
    return next(iter(sample.tensors.values())).dtype


def error(a: Tensor, b: Tensor) -> float:
    """Of a against b, relative, in the L2 norm."""
    a, scale = a.double().cpu(), b.norm()
    return float((a - b).norm() / scale) if scale > 0 else float(a.norm())


class AlignedAsFaked(TorchDispatchMode):
    """Checks that results of raw operators are aligned to 16 bytes where those of their fake
    kernels are: what torch.compile makes for a GPU relies on that."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.namespace in (_library.COMPILED, _library.TRITON):
            with FakeTensorMode() as mode:
                fakes = func(*tree_map_only(Tensor, mode.from_tensor, args))
            for t, fake in zip(tree_leaves(results), tree_leaves(fakes), strict=True):
                offset = fake.storage_offset() * fake.element_size()
                assert offset % 16 or t.data_ptr() % 16 == 0, func
        return results


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_no_worse_than_twice_plain_pytorch(spec: OpSpec, kernel: str, dtype: torch.dtype) -> None:
    """Values and gradients against float64, beside the reference's in the same precision."""
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    for wide in spec.samples_for(kernel):
        sample, device = wide.rounded(dtype), device_of(kernel)
        exact = run(sample, "reference", torch.float64)
        plain = run(sample, "reference", dtype, device)
        with AlignedAsFaked():
            ours = run(sample, kernel, dtype, device)
        for name, value in exact.items():
            assert ours[name].dtype == plain[name].dtype, (sample.name, name)
            assert ours[name].shape == plain[name].shape, (sample.name, name)
            allowed = 2 * error(plain[name], value) + spec.floor[dtype]
            assert error(ours[name], value) <= allowed, (sample.name, name)


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_one_gradient_alone(spec: OpSpec, kernel: str) -> None:
    """What a tensor's gradient is does not depend on which others are asked for."""
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    for sample in spec.samples_for(kernel):
        leaves = sample.cast(torch.float32, device_of(kernel))
        together = {name: t.detach().requires_grad_() for name, t in leaves.items()}
        sample.call(kernel, **together).square().sum().backward()
        for name in leaves:
            alone = {n: t.detach().requires_grad_(n == name) for n, t in leaves.items()}
            out = sample.call(kernel, **alone)
            (gradient,) = torch.autograd.grad(out.square().sum(), alone[name])
            expected = together[name].grad
            assert error(gradient, expected.double().cpu()) <= 1e-6, (sample.name, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_deterministic(spec: OpSpec, kernel: str, dtype: torch.dtype) -> None:
    """Bit for bit the same again, and with another number of threads."""
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    sample, device = next(spec.samples_for(kernel)), device_of(kernel)
    first = run(sample, kernel, dtype, device)
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1, 3):
            torch.set_num_threads(count)
            again = run(sample, kernel, dtype, device)
            assert all(torch.equal(first[name], again[name]) for name in first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("spec", EACH)
def test_gradcheck(spec: OpSpec) -> None:
    for sample in spec.tiny():
        leaves = {name: t.requires_grad_() for name, t in sample.cast(torch.float64).items()}
        torch.autograd.gradcheck(
            lambda *t, call=sample.call, names=tuple(leaves): call(
                "reference", **dict(zip(names, t, strict=True))
            ),
            tuple(leaves.values()),
            fast_mode=True,
            rtol=1e-3,
            atol=1e-5,
        )


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_opcheck(spec: OpSpec, kernel: str) -> None:
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    operator, device = getattr(_library.raw(kernel), spec.name), device_of(kernel)
    for sample in spec.tiny():
        cast = sample.cast(torch.float32, device)
        leaves = {name: t.requires_grad_() for name, t in cast.items()}
        torch.library.opcheck(operator.default, sample.raw(**leaves))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_compiles_whole(spec: OpSpec, kernel: str, compiler: str) -> None:
    """One graph, dynamic shapes, forward and backward; the same numbers as without."""
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    if compiler == "inductor" and spec.name != "fft_attention":
        pytest.skip("compiling C++ is slow; one operator shows that it works")
    torch.compiler.reset()  # a function is compiled for so many operators and no more
    sample = next(spec.tiny())

    def call(leaves: dict[str, Tensor]) -> Any:
        return sample.call(kernel, **leaves) * 2

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=compiler)
    results = []
    for function in (call, compiled):
        cast = sample.cast(torch.float32, device_of(kernel))
        leaves = {name: t.requires_grad_() for name, t in cast.items()}
        out = function(leaves)
        grads = torch.autograd.grad(out.square().sum(), list(leaves.values()))
        results.append((out, *grads))
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-5, atol=1e-5)
