"""What the tests and benchmarks of all operators are made with: samples, layouts, devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from moce_kernels import native, registry
from moce_kernels.backends import why_not
from moce_kernels.triton_kernels import interpreted

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

CPU = torch.device("cpu")


def device_of(backend: str) -> torch.device:
    """Where a backend is tested: Triton and CUDA on a GPU where there is one."""
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    return torch.device("cuda") if on_gpu else CPU


def skip_unless_it_runs(backend: str, operator: str, device: torch.device = CPU) -> None:
    reason = why_not(backend, operator, device)
    if reason:
        pytest.skip(f"{backend}: {reason}")


def device_of_library(operator: str, raw: str) -> torch.device:
    """Where ``raw``, a step of ``operator`` in the CUDA library, runs: on a GPU, or with what
    test_cuda_kernels.py compiles for CPUs; skips where neither is."""
    if torch.cuda.is_available():
        skip_unless_it_runs("cuda", operator, torch.device("cuda"))
        return torch.device("cuda")
    if native.load("cpu") or not torch._C._dispatch_has_kernel_for_dispatch_key(
        f"moce_kernels::{raw}", "CPU"
    ):
        pytest.skip("no GPU; test_cuda_kernels.py runs these tests with an emulated one")
    return CPU


def skip_unless_compiled(instruction_set: str) -> None:
    """Of the CPU library, which from source is compiled for this machine's best set alone."""
    skip_unless_it_runs("cpu", "fft_attention")
    if instruction_set not in native.cpu_instruction_sets():
        pytest.skip(f"no {instruction_set} in the CPU library: install it with MOCE_CPU_ISA=all")


def selection(operator: str, backend: str) -> str:
    """pytest's ``-k``: the table's tests of one operator and backend, none of a longer name."""
    longer = [o for o in registry.names() if operator in o and o != operator]
    return " and not ".join([f"{operator}-{backend}", *longer])


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Sample:
    """Inputs of one call: tensors that are differentiable or not, and the rest."""

    name: str
    tensors: dict[str, Tensor]  # differentiable
    call: Callable[..., Tensor]  # (backend, **tensors) -> the differentiable output
    raw: Callable[..., tuple[Any, ...]]  # (**tensors) -> the raw operator's arguments
    # Tensors that keep float32 when the activations are of a smaller dtype.
    master: frozenset[str] = frozenset()

    def cast(self, dtype: torch.dtype, device: torch.device = CPU) -> dict[str, Tensor]:
        """Leaves of this dtype with the layout kept, rounded there and back where it is wider."""
        return {
            name: _relayout(
                t, dtype if dtype == torch.float64 or name not in self.master else None, device
            )
            for name, t in self.tensors.items()
        }

    def rounded(self, dtype: torch.dtype) -> Sample:
        """The same sample with values that ``dtype`` holds exactly."""
        tensors = {
            name: t if name in self.master else _relayout(t, dtype)
            for name, t in self.tensors.items()
        }
        return Sample(self.name, tensors, self.call, self.raw, self.master)

    def shuffled(self, seed: int) -> Sample:
        """The same sample with each tensor's values in another order."""
        generator = torch.Generator().manual_seed(seed)
        tensors = {name: _relayout(t, None) for name, t in self.tensors.items()}
        for t in tensors.values():
            once = t[tuple(slice(0, None if s else 1) for s in t.stride())]  # expanded dimensions
            order = torch.randperm(once.numel(), generator=generator)
            once.copy_(once.flatten()[order].view(once.shape))
        return Sample(self.name, tensors, self.call, self.raw, self.master)


def _relayout(t: Tensor, dtype: torch.dtype | None, device: torch.device = CPU) -> Tensor:
    """``t`` in another dtype, with the same strides, in a buffer with NaN wherever t is not."""
    dtype = dtype or t.dtype
    extent = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    buffer = torch.full((max(extent, 0) + 64,), float("nan"), dtype=dtype, device=device)
    out = buffer.as_strided(t.shape, t.stride(), 32)
    if t.numel():
        once = tuple(slice(0, None if s else 1) for s in t.stride())  # expanded dimensions
        out[once].copy_(t[once])
    return out


@dataclass(frozen=True)
class OpSpec:
    """An operator with its samples, which ``tests.ops.samples`` tells more of."""

    name: str
    samples: Callable[[], Iterator[Sample]]
    tiny: Callable[[], Iterator[Sample]]
    launched: Callable[[], Iterator[Sample]]
    timed: Callable[[int, int], Iterator[Sample]]
    # Relative errors that are rounding, whatever plain PyTorch's own are.
    floor: dict[torch.dtype, float] = field(
        default_factory=lambda: {torch.float32: 3e-7, torch.bfloat16: 2e-4, torch.float16: 3e-5}
    )

    @property
    def kernels(self) -> tuple[str, ...]:
        """The backends that run it, beside the reference."""
        return registry.OPERATORS[self.name].backends

    def samples_for(self, backend: str) -> Iterator[Sample]:
        """Triton's interpreter is slow: it gets the small ones."""
        slow = backend == "triton" and interpreted()
        for sample in self.samples():
            if not slow or next(iter(sample.tensors.values())).numel() <= INTERPRETED_ELEMENTS:
                yield sample


INTERPRETED_ELEMENTS = 5000


# Property tests draw fewer and smaller inputs in Triton's interpreter: of more than one tile still.


def examples(count: int) -> int:
    return count // 10 if interpreted() else count


def sizes(largest: int) -> SearchStrategy[int]:
    from hypothesis import strategies as st  # the table alone is of use without it, on a lent GPU

    return st.integers(1, min(largest, 18) if interpreted() else largest)


def assert_close_to_float64(
    backend: str, call: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor
) -> None:
    """Value and gradients of ``call(backend, *tensors)`` in float32 against float64.

    Give eps = 1 to a LayerNorm over few channels: where these are nearly equal a small one
    amplifies the rounding of what comes before it without bound.
    """

    def run(runs: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in tensors]
        out = call(runs, *leaves)
        return out, *torch.autograd.grad(out, leaves, grad.to(dtype))

    ours, exact = run(backend, torch.float32), run("reference", torch.float64)
    for a, b in zip(ours, exact, strict=True):
        scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * scale)


def activations(count: int, shape: tuple[int, int, int, int], layout: str) -> list[Tensor]:
    """Random tensors: "contiguous", "channels_last", "sliced" out of a larger one, "expanded"."""
    batch, channels, height, width = shape
    tensors = []
    for _ in range(count):
        if layout == "sliced":
            large = torch.randn(batch, channels + 5, height + 3, width + 7)
            t = large[:, 2 : 2 + channels, 1 : 1 + height, 3 : 3 + width]
        elif layout == "sliced_last":
            large = torch.randn(batch, height + 3, width + 7, channels + 5)
            t = large[:, 1 : 1 + height, 3 : 3 + width, 2 : 2 + channels].permute(0, 3, 1, 2)
        elif layout == "expanded":
            t = torch.randn(1, channels, height, 1).expand(shape)
        else:
            memory_format = getattr(torch, f"{layout}_format", None) or getattr(torch, layout)
            t = torch.randn(shape).contiguous(memory_format=memory_format)
        tensors.append(t)
    return tensors


def norm_parameters(channels: int) -> dict[str, Tensor]:
    """A LayerNorm's weight and bias as ``with_norm`` takes them."""
    return {"scale": 1 + 0.1 * torch.randn(channels), "shift": 0.1 * torch.randn(channels)}


def with_norm(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator with the norm's weight and bias as tensors ``scale`` and ``shift``."""

    def call(backend: str | None, scale: Any = None, shift: Any = None, **t: Tensor) -> Tensor:
        norm = None if scale is None else (scale, shift)
        return operator(**t, norm=norm, backend=backend)

    return call
