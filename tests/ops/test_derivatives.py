"""Second and forward-mode derivatives: right, or refused with the way out, never wrong numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from moce_kernels import registry
from tests.ops.samples import SPECS
from tests.ops.spec import CPU, OpSpec, Sample, device_of, skip_unless_it_runs

KERNELS = [pytest.param(s, k, id=f"{s.name}-{k}") for s in SPECS for k in s.kernels]
EACH = [pytest.param(s, id=s.name) for s in SPECS]


def first(sample: Sample, backend: str, leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Gradients that a graph was made of."""
    out = sample.call(backend, **leaves)
    return torch.autograd.grad(out.square().sum(), list(leaves.values()), create_graph=True)


def second(
    sample: Sample, backend: str, dtype: torch.dtype, device: torch.device = CPU
) -> tuple[Tensor, ...]:
    leaves = {n: t.detach().requires_grad_() for n, t in sample.cast(dtype, device).items()}
    norm = torch.stack([g.square().sum() for g in first(sample, backend, leaves)]).sum()
    return torch.autograd.grad(norm, list(leaves.values()))


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_second_derivatives_are_right_or_refused(spec: OpSpec, kernel: str) -> None:
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    for wide in spec.tiny():
        sample, device = wide.rounded(torch.float32), device_of(kernel)
        if registry.OPERATORS[spec.name].again:
            exact = second(sample, "reference", torch.float64)
            plain = second(sample, "reference", torch.float32)
            ours = second(sample, kernel, torch.float32, device)
            for value, of_plain, of_ours in zip(exact, plain, ours, strict=True):
                scale = value.norm()
                allowed = 2 * (of_plain - value).norm() + spec.floor[torch.float32] * scale
                assert (of_ours.cpu() - value).norm() <= allowed
            continue
        # Whichever gradient is differentiated by whichever tensor.
        for name in sample.tensors:
            cast = sample.cast(torch.float32, device)
            leaves = {n: t.detach().requires_grad_() for n, t in cast.items()}
            for gradient in first(sample, kernel, leaves):
                with pytest.raises(NotImplementedError, match=rf'^{spec.name}: .*"reference"'):
                    torch.autograd.grad(gradient.square().sum(), leaves[name], retain_graph=True)


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_a_graph_changes_no_gradient(spec: OpSpec, kernel: str) -> None:
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    for sample in spec.tiny():
        cast = sample.cast(torch.float32, device_of(kernel))
        leaves = {n: t.detach().requires_grad_() for n, t in cast.items()}
        sample.call(kernel, **leaves).square().sum().backward()
        for leaf, gradient in zip(leaves.values(), first(sample, kernel, leaves), strict=True):
            assert leaf.grad is not None and torch.equal(leaf.grad, gradient)


class NoGradient(torch.autograd.Function):
    """Its input as it is, and no gradient of it, which is not the same as zeros."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> None:
        return None


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_no_gradient_comes_in(spec: OpSpec, kernel: str) -> None:
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    cast = next(spec.tiny()).cast(torch.float32, device_of(kernel))
    leaves = {n: t.detach().requires_grad_() for n, t in cast.items()}
    NoGradient.apply(next(spec.tiny()).call(kernel, **leaves)).sum().backward()
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves.values())


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_forward_mode_is_refused(spec: OpSpec, kernel: str) -> None:
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    for sample in spec.tiny():
        leaves = sample.cast(torch.float32, device_of(kernel))
        for name, leaf in leaves.items():

            def of_one(x: Tensor, name: str = name, leaves: dict[str, Tensor] = leaves) -> Tensor:
                return sample.call(kernel, **{**leaves, name: x})  # noqa: B023

            with pytest.raises(NotImplementedError, match=rf'^{spec.name}: .*"reference"'):
                torch.func.jvp(of_one, (leaf,), (leaf,))
        with forward_ad.dual_level():  # without a derivative it is as outside
            inside = sample.call(kernel, **leaves)
        assert torch.equal(inside, sample.call(kernel, **leaves))


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_forward_mode_over_a_backward_pass_is_refused(spec: OpSpec, kernel: str) -> None:
    skip_unless_it_runs(kernel, spec.name, device_of(kernel))
    sample = next(spec.tiny())
    cast = sample.cast(torch.float32, device_of(kernel))
    leaves = {n: t.detach().requires_grad_() for n, t in cast.items()}
    out = sample.call(kernel, **leaves)
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=rf'^{spec.name}: .*"reference"'),
    ):
        upstream = forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out))
        torch.autograd.grad(out, list(leaves.values()), upstream)


@pytest.mark.parametrize(
    "check",
    [
        torch.autograd.gradgradcheck,
        lambda *a, **k: torch.autograd.gradcheck(
            *a, **k, check_forward_ad=True, check_backward_ad=False
        ),
    ],
    ids=["second", "forward"],
)
@pytest.mark.parametrize("spec", EACH)
def test_the_reference_has_both(spec: OpSpec, check: Callable[..., bool]) -> None:
    for sample in spec.tiny():
        leaves = {n: t.requires_grad_() for n, t in sample.cast(torch.float64).items()}
        assert check(
            lambda *t, call=sample.call, names=tuple(leaves): call(
                "reference", **dict(zip(names, t, strict=True))
            ),
            tuple(leaves.values()),
            fast_mode=True,
            rtol=1e-3,
            atol=1e-5,
        )
