"""One table of all operators: what their tests and benchmarks are generated from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from moce_kernels import (
    ExpertWeights,
    RoutingPlan,
    channel_attention,
    depthwise_conv,
    expert_weight_shapes,
    fft_attention,
    gated_depthwise_conv,
    gated_feedforward,
    grouped_experts,
    native,
    pointwise_conv,
    projected_depthwise_conv,
    routing_plan,
    transposed_attention,
    window_fft_conv,
)
from moce_kernels.backends import OPERATORS, why_not
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


def skip_unless_compiled(instruction_set: str) -> None:
    """Of the CPU library, which from source is compiled for this machine's best set alone."""
    skip_unless_it_runs("cpu", "fft_attention")
    if instruction_set not in native.cpu_instruction_sets():
        pytest.skip(f"no {instruction_set} in the CPU library: install it with MOCE_CPU_ISA=all")


def selection(operator: str, backend: str) -> str:
    """pytest's ``-k``: the table's tests of one operator and backend, none of a longer name."""
    longer = [o for o in OPERATORS if operator in o and o != operator]
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
    name: str
    samples: Callable[[], Iterator[Sample]]
    # Smallest inputs, for gradcheck in float64 and for opcheck and compilation.
    tiny: Callable[[], Iterator[Sample]]
    # Relative errors that are rounding, whatever plain PyTorch's own are.
    floor: dict[torch.dtype, float] = field(
        default_factory=lambda: {torch.float32: 3e-7, torch.bfloat16: 2e-4, torch.float16: 3e-5}
    )
    # Backends with kernels, beside the reference.
    kernels: tuple[str, ...] = ("cpu", "triton", "cuda")

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


# --- depthwise_conv ------------------------------------------------------------------------------


def depthwise_sample(
    shape: tuple[int, int, int, int], layout: str, kernel: int, bias: bool = True
) -> Sample:
    (x,) = activations(1, shape, layout)
    tensors = {"x": x, "weight": torch.randn(shape[1], 1, kernel, kernel) / kernel}
    if bias:
        tensors["bias"] = torch.randn(shape[1])
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-kernel{kernel}{'' if bias else '-no_bias'}",
        tensors,
        lambda backend, **t: depthwise_conv(**t, backend=backend),
        lambda x, weight, bias=None: (x, weight, bias),
    )


def depthwise_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for kernel in (3, 7):
        for shape, layout in (
            ((2, 48, 35, 70), "channels_last"),  # several tiles, whole vectors
            ((2, 6, 17, 45), "channels_last"),
            ((1, 37, 9, 31), "sliced_last"),
            ((1, 20, 18, 66), "contiguous"),
            ((2, 2, 20, 35), "sliced"),
            ((2, 12, 5, 3), "expanded"),
            ((1, 36, 3, 37), "channels_last"),  # several blocks of columns and of channels
            ((1, 2, 67, 19), "channels_last"),  # many strips of rows
            ((1, 1, 1, 1), "contiguous"),
            ((3, 64, 1, 2), "channels_last"),
            ((0, 8, 16, 16), "channels_last"),
            ((1, 160, 9, 17), "channels_last"),  # more channels than threads; one column too many
            ((2, 20, 19, 24), "sliced_last"),  # pairs of channels that lie across 32-bit words
            ((2, 1, 23, 13), "channels_last"),
            ((1, 130, 3, 9), "contiguous"),
        ):
            yield depthwise_sample(shape, layout, kernel)
        yield depthwise_sample((1, 5, 8, 9), "channels_last", kernel, bias=False)


def depthwise_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield depthwise_sample((1, 3, 5, 6), "contiguous", 3)
    yield depthwise_sample((2, 2, 3, 4), "channels_last", 7, bias=False)


# --- fft_attention -------------------------------------------------------------------------------


def attention_sample(
    shape: tuple[int, int, int, int], layout: str, window: int, eps: float = 1e-5
) -> Sample:
    q, k, v = activations(3, shape, layout)
    weight, bias = 1 + 0.1 * torch.randn(shape[1]), 0.1 * torch.randn(shape[1])
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-window{window}",
        {"q": q, "k": k, "v": v, "weight": weight, "bias": bias},
        lambda backend, **t: fft_attention(**t, window=window, eps=eps, backend=backend),
        lambda **t: (*t.values(), window, eps),
        frozenset({"weight", "bias"}),
    )


def attention_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for window in (4, 8, 16, 32):
        for shape, layout in (
            ((1, 48, 32, 64), "channels_last"),  # whole windows, whole vectors
            ((2, 6, 37, 45), "channels_last"),
            ((2, 4, 9, 31), "sliced_last"),
            ((1, 33, 33, 40), "contiguous"),
            ((2, 16, 20, 35), "sliced"),
            ((2, 11, 34, 5), "expanded"),
            ((1, 1, 1, 1), "contiguous"),
            ((0, 8, 16, 16), "channels_last"),
        ):
            yield attention_sample(shape, layout, window)


def attention_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield attention_sample((1, 3, 5, 6), "contiguous", 4)
    yield attention_sample((2, 2, 3, 9), "channels_last", 8)


# --- window_fft_conv -----------------------------------------------------------------------------


def window_sample(shape: tuple[int, int, int, int], layout: str, window: int) -> Sample:
    q, k = activations(2, shape, layout)
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-window{window}",
        {"q": q, "k": k},
        lambda backend, **t: window_fft_conv(**t, window=window, backend=backend),
        lambda **t: (*t.values(), window),
    )


def window_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for window in (4, 8, 16, 32):
        for shape, layout in (
            ((1, 48, 32, 64), "channels_last"),  # whole windows, whole vectors
            ((2, 6, 37, 45), "channels_last"),
            ((2, 4, 9, 31), "sliced_last"),
            ((1, 33, 33, 40), "contiguous"),
            ((1, 5, 33, 20), "contiguous"),
            ((2, 3, 34, 5), "expanded"),
            ((0, 8, 16, 16), "channels_last"),
        ):
            yield window_sample(shape, layout, window)


def window_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield window_sample((1, 3, 5, 6), "contiguous", 4)
    yield window_sample((2, 2, 3, 9), "channels_last", 8)


# --- routing_plan --------------------------------------------------------------------------------


def plan_sample(batch: int, experts: int, top_k: int) -> Sample:
    return Sample(
        f"{batch}x{experts}-top{top_k}",
        {"logits": torch.randn(batch, experts)},
        lambda backend, logits: routing_plan(logits, top_k, backend).gate,
        lambda logits: (logits, top_k),
    )


def plan_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for batch, experts, top_k in ((1, 4, 1), (33, 4, 2), (5, 1, 1), (7, 6, 6), (0, 4, 1)):
        yield plan_sample(batch, experts, top_k)


def plan_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield plan_sample(3, 4, 2)


# --- grouped_experts -----------------------------------------------------------------------------


def experts_sample(
    shape: tuple[int, int, int, int],
    layout: str,
    ranks: tuple[int, ...],
    windows: tuple[int, ...],
    index: list[list[int]],
) -> Sample:
    x, shared = activations(2, shape, layout)
    slots = torch.tensor(index, dtype=torch.int64).reshape(shape[0], len(index[0]) if index else 1)
    flat = slots.flatten()
    offsets = torch.tensor([0] + [int((flat <= e).sum()) for e in range(len(ranks))])
    order = flat.argsort(stable=True)
    gate = torch.rand(slots.shape) + 0.1
    weights = {}
    for role, weight_shape in expert_weight_shapes(shape[1], ranks).items():
        fan_in = {"in_proj": shape[1], "mod_proj": shape[1], "query_dw": 9, "key_value_dw": 49}
        weights[role] = torch.randn(weight_shape) / fan_in.get(role, max(ranks)) ** 0.5

    def call(backend: str | None, x: Tensor, shared: Tensor, gate: Tensor, **w: Tensor) -> Tensor:
        on_device = [t.to(x.device) for t in (slots, order, offsets)]
        plan = RoutingPlan(on_device[0], gate, *on_device[1:])
        return grouped_experts(x, shared, plan, ExpertWeights(**w), ranks, windows, backend=backend)

    def raw(x: Tensor, shared: Tensor, gate: Tensor, **w: Tensor) -> tuple[Any, ...]:
        on_device = [t.to(x.device) for t in (slots, order, offsets)]
        plan = (on_device[0], gate, *on_device[1:])
        return (x, shared, *plan, list(w.values()), list(ranks), list(windows), 1e-5)

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-top{slots.shape[1]}",
        {"x": x, "shared": shared, "gate": gate, **weights},
        call,
        raw,
        frozenset({"gate", *weights}),
    )


def experts_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    ranks, windows = (3, 6, 12, 24), (4, 8, 16, 32)
    yield experts_sample((4, 24, 35, 41), "channels_last", ranks, windows, [[3], [0], [2], [1]])
    yield experts_sample((2, 24, 33, 9), "contiguous", ranks, windows, [[3, 0], [2, 3]])
    yield experts_sample((2, 32, 16, 64), "channels_last", (16, 32), (8, 16), [[1], [0]])
    yield experts_sample((2, 7, 9, 10), "sliced", (5, 7), (4, 8), [[1], [1]])
    yield experts_sample((1, 8, 4, 5), "expanded", (2, 8), (4, 32), [[1]])
    # One pixel; many of them, so that errors are compared and not single roundings, and three
    # channels at least: over two a LayerNorm's gradient is rounding alone.
    turns = [[image % 2] for image in range(8)]
    yield experts_sample((8, 4, 1, 1), "contiguous", (3, 4), (4, 8), turns)
    # The same with more gates and wider norms: on a GPU the three above exceed what is allowed
    # (docs/performance.md), where a gradient is one or two numbers, or a norm is over three.
    yield experts_sample((5, 11, 9, 10), "sliced", (7, 11), (4, 8), [[1]] * 5)
    yield experts_sample((6, 8, 4, 5), "expanded", (2, 8), (4, 32), [[1]] * 6)
    # The larger expert has more blocks of channels.
    yield experts_sample((2, 6, 9, 35), "channels_last", (4, 20), (4, 8), [[1], [0]])
    turns = [[image % 2] for image in range(32)]
    yield experts_sample((32, 12, 1, 1), "contiguous", (8, 12), (4, 8), turns)
    yield experts_sample((0, 8, 16, 16), "channels_last", (2, 8), (4, 8), [])


def experts_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield experts_sample((2, 3, 5, 4), "contiguous", (1, 2), (4, 8), [[1, 0], [0, 1]])


# --- pointwise_conv ------------------------------------------------------------------------------


def pointwise_sample(
    shape: tuple[int, int, int, int], layout: str, outer: int, *parts: str
) -> Sample:
    """``parts``: which of bias, norm and residual there are."""
    (x,) = activations(1, shape, layout)
    tensors = {"x": x, "weight": torch.randn(outer, shape[1]) / shape[1] ** 0.5}
    if "bias" in parts:
        tensors["bias"] = torch.randn(outer)
    if "residual" in parts:
        (tensors["residual"],) = activations(1, (shape[0], outer, *shape[2:]), layout)
    if "norm" in parts:
        tensors["scale"] = 1 + 0.1 * torch.randn(shape[1])
        tensors["shift"] = 0.1 * torch.randn(shape[1])

    def call(
        backend: str | None,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        **more: Tensor,
    ) -> Tensor:
        norm = None if scale is None or shift is None else (scale, shift)
        return pointwise_conv(x, weight, norm=norm, **more, backend=backend)

    def raw(x: Tensor, weight: Tensor, **more: Tensor) -> tuple[Any, ...]:
        return (x, weight, more.get("bias"), more.get("residual"), "norm" in parts, 1e-5)

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-to{outer}-{'-'.join(parts)}",
        tensors,
        call,
        raw,
        frozenset({"weight", "bias", "scale", "shift"}),
    )


def pointwise_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield pointwise_sample((2, 48, 35, 30), "channels_last", 96, "norm", "bias")
    yield pointwise_sample((2, 32, 17, 45), "channels_last", 48, "bias", "residual")
    yield pointwise_sample((2, 13, 9, 31), "sliced_last", 21, "norm", "bias", "residual")
    yield pointwise_sample((1, 37, 5, 50), "contiguous", 7, "norm")
    yield pointwise_sample((2, 5, 20, 35), "sliced", 16, "bias", "residual")
    yield pointwise_sample((2, 12, 5, 3), "expanded", 9, "residual")
    yield pointwise_sample((1, 2, 1, 1), "contiguous", 3, "norm", "bias")
    yield pointwise_sample((1, 20, 4, 4), "channels_last", 8)
    yield pointwise_sample((2, 48, 5, 7), "channels_last", 85, "norm", "bias", "residual")
    yield pointwise_sample((1, 85, 7, 8), "sliced_last", 32, "norm", "residual")
    yield pointwise_sample((1, 10, 9, 15), "sliced", 21, "norm", "bias", "residual")
    yield pointwise_sample((2, 170, 3, 4), "channels_last", 40, "norm", "bias")  # many channels
    yield pointwise_sample((0, 8, 16, 16), "channels_last", 8, "norm", "bias", "residual")


def pointwise_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield pointwise_sample((1, 3, 5, 6), "contiguous", 4, "norm", "bias", "residual")
    yield pointwise_sample((2, 4, 3, 2), "channels_last", 3)


# --- gated_depthwise_conv ------------------------------------------------------------------------


def gated_sample(shape: tuple[int, int, int, int], layout: str, bias: bool = True) -> Sample:
    (x,) = activations(1, shape, layout)
    tensors = {"x": x, "weight": torch.randn(shape[1], 1, 3, 3) / 3}
    if bias:
        tensors["bias"] = torch.randn(shape[1])
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}{'' if bias else '-no_bias'}",
        tensors,
        lambda backend, **t: gated_depthwise_conv(**t, backend=backend),
        lambda x, weight, bias=None: (x, weight, bias),
    )


def gated_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for shape, layout in (
        ((2, 48, 35, 70), "channels_last"),  # several tiles
        ((2, 6, 17, 45), "channels_last"),
        ((1, 74, 9, 31), "sliced_last"),
        ((1, 20, 18, 66), "contiguous"),
        ((2, 24, 33, 35), "sliced"),
        ((2, 12, 5, 3), "expanded"),
        ((1, 40, 3, 37), "channels_last"),  # several blocks of columns and of channels
        ((1, 2, 1, 1), "contiguous"),
        ((3, 64, 1, 2), "channels_last"),
        ((2, 10, 13, 11), "sliced_last"),
        ((1, 6, 12, 17), "sliced"),
        ((0, 8, 16, 16), "channels_last"),
        ((1, 320, 9, 13), "channels_last"),  # more channels than threads; one column too many
        ((2, 36, 19, 12), "sliced_last"),
        ((1, 280, 3, 5), "contiguous"),
    ):
        yield gated_sample(shape, layout)
    # Two biases alone: their gradients must be summed before they are rounded.
    yield gated_sample((2, 2, 33, 35), "sliced")
    yield gated_sample((1, 10, 8, 9), "channels_last", bias=False)


def gated_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield gated_sample((1, 4, 5, 6), "contiguous")
    yield gated_sample((2, 2, 3, 4), "channels_last", bias=False)


# --- channel_attention ---------------------------------------------------------------------------


def channel_sample(
    shape: tuple[int, int, int, int], layout: str, heads: int, outer: int, *parts: str
) -> Sample:
    """``parts``: which of cross, bias and residual there are."""
    batch, channels, height, width = shape

    def images(n: int) -> Tensor:
        return activations(1, (batch, n, height, width), layout)[0]

    tensors = {"query": images(channels if "cross" in parts else 3 * channels)}
    if "cross" in parts:
        tensors["key_value"] = images(2 * channels)
    tensors["temperature"] = 1 + torch.rand(heads)
    tensors["weight"] = torch.randn(outer, channels) / channels**0.5
    if "bias" in parts:
        tensors["bias"] = torch.randn(outer)
    if "residual" in parts:
        tensors["residual"] = images(outer)

    def call(backend: str | None, query: Tensor, key_value: Any = None, **t: Tensor) -> Tensor:
        return channel_attention(query, key_value, **t, backend=backend)

    def raw(query: Tensor, key_value: Any = None, **t: Tensor) -> tuple[Any, ...]:
        return (query, key_value, *map(t.get, ("temperature", "weight", "bias", "residual")))

    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-heads{heads}-to{outer}-{'-'.join(parts)}",
        tensors,
        call,
        raw,
        frozenset({"temperature", "weight", "bias"}),
    )


def channel_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield channel_sample((2, 32, 70, 66), "channels_last", 2, 32, "bias", "residual")
    yield channel_sample((2, 48, 17, 45), "channels_last", 1, 48, "cross", "residual")
    yield channel_sample((2, 12, 9, 31), "sliced_last", 4, 21, "cross", "bias")
    yield channel_sample((1, 10, 33, 40), "contiguous", 2, 7, "residual")
    yield channel_sample((2, 6, 20, 35), "sliced", 2, 16, "cross", "bias", "residual")
    yield channel_sample((2, 9, 5, 3), "expanded", 3, 9)
    yield channel_sample((1, 1, 1, 1), "contiguous", 1, 2, "bias")
    yield channel_sample((2, 16, 7, 13), "channels_last", 2, 16, "bias", "residual")
    yield channel_sample((1, 20, 9, 14), "sliced_last", 4, 21, "cross", "bias", "residual")
    yield channel_sample((1, 70, 6, 11), "sliced", 1, 70, "cross")  # a head of several tiles
    yield channel_sample((0, 8, 16, 16), "channels_last", 2, 8, "bias")


def channel_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield channel_sample((2, 4, 5, 6), "contiguous", 2, 3, "bias", "residual")
    yield channel_sample((1, 2, 3, 4), "channels_last", 1, 2, "cross")


# --- gated_feedforward ---------------------------------------------------------------------------


def with_norm(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator with the norm's weight and bias as tensors ``scale`` and ``shift``."""

    def call(backend: str | None, scale: Any = None, shift: Any = None, **t: Tensor) -> Tensor:
        norm = None if scale is None else (scale, shift)
        return operator(**t, norm=norm, backend=backend)

    return call


def feedforward_sample(
    shape: tuple[int, int, int, int], layout: str, hidden: int, *parts: str
) -> Sample:
    """``parts``: which of bias (all three) and norm there are."""
    channels = shape[1]
    (x,) = activations(1, shape, layout)
    tensors = {
        "x": x,
        "project_in": torch.randn(2 * hidden, channels) / channels**0.5,
        "depthwise": torch.randn(2 * hidden, 1, 3, 3) / 3,
        "project_out": torch.randn(channels, hidden) / hidden**0.5,
    }
    if "bias" in parts:
        for name, size in (("in", 2 * hidden), ("depthwise", 2 * hidden), ("out", channels)):
            tensors[f"{name}_bias"] = torch.randn(size)
    if "norm" in parts:
        tensors["scale"] = 1 + 0.1 * torch.randn(channels)
        tensors["shift"] = 0.1 * torch.randn(channels)
    order = ("x", "project_in", "in_bias", "depthwise", "depthwise_bias", "project_out", "out_bias")
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-hidden{hidden}-{'-'.join(parts)}",
        tensors,
        with_norm(gated_feedforward),
        lambda **t: (*map(t.get, order), "norm" in parts, 1e-5),
        frozenset(tensors) - {"x"},
    )


def feedforward_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield feedforward_sample((2, 24, 21, 110), "channels_last", 48, "norm", "bias")  # two strips
    yield feedforward_sample((1, 13, 9, 31), "sliced_last", 5, "norm", "bias")
    yield feedforward_sample((1, 32, 5, 40), "contiguous", 9, "norm")
    yield feedforward_sample((2, 5, 12, 20), "sliced", 16, "bias")
    yield feedforward_sample((2, 12, 5, 3), "expanded", 9)
    # One pixel; many of them, so that errors are compared and not single roundings.
    yield feedforward_sample((32, 24, 1, 1), "contiguous", 20, "norm", "bias")
    yield feedforward_sample((2, 12, 6, 20), "channels_last", 16, "norm", "bias")
    yield feedforward_sample((0, 8, 16, 16), "channels_last", 8, "norm", "bias")


def feedforward_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield feedforward_sample((1, 3, 5, 6), "contiguous", 4, "norm", "bias")
    yield feedforward_sample((2, 4, 3, 2), "channels_last", 2)


# --- projected_depthwise_conv --------------------------------------------------------------------


def projected_sample(
    shape: tuple[int, int, int, int], layout: str, outer: int, kernel: int, *parts: str
) -> Sample:
    """``parts``: which of bias (both) and norm there are."""
    channels = shape[1]
    (x,) = activations(1, shape, layout)
    tensors = {
        "x": x,
        "weight": torch.randn(outer, channels) / channels**0.5,
        "depthwise": torch.randn(outer, 1, kernel, kernel) / kernel,
    }
    if "bias" in parts:
        tensors["bias"], tensors["depthwise_bias"] = torch.randn(outer), torch.randn(outer)
    if "norm" in parts:
        tensors["scale"] = 1 + 0.1 * torch.randn(channels)
        tensors["shift"] = 0.1 * torch.randn(channels)
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-to{outer}-kernel{kernel}-{'-'.join(parts)}",
        tensors,
        with_norm(projected_depthwise_conv),
        lambda **t: (
            *map(t.get, ("x", "weight", "bias", "depthwise", "depthwise_bias")),
            "norm" in parts,
            1e-5,
        ),
        frozenset(tensors) - {"x"},
    )


def projected_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for kernel in (3, 7):
        yield projected_sample((2, 16, 21, 110), "channels_last", 48, kernel, "norm", "bias")
        yield projected_sample((1, 13, 9, 31), "sliced_last", 21, kernel, "norm", "bias")
        yield projected_sample((1, 37, 5, 40), "contiguous", 7, kernel, "norm")
        yield projected_sample((2, 5, 12, 20), "sliced", 16, kernel, "bias")
        yield projected_sample((2, 12, 5, 3), "expanded", 9, kernel)
        yield projected_sample((32, 24, 1, 1), "contiguous", 20, kernel, "norm", "bias")
        yield projected_sample((2, 12, 6, 20), "channels_last", 16, kernel, "norm", "bias")
        yield projected_sample((0, 8, 16, 16), "channels_last", 8, kernel, "norm", "bias")


def projected_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield projected_sample((1, 3, 5, 6), "contiguous", 4, 3, "norm", "bias")
    yield projected_sample((2, 4, 3, 2), "channels_last", 3, 7)


# --- transposed_attention ------------------------------------------------------------------------


def transposed_sample(
    shape: tuple[int, int, int, int], layout: str, heads: int, inner: int, outer: int, *parts: str
) -> Sample:
    """``parts``: which of bias (all three), norm and residual there are."""
    batch, channels, height, width = shape
    (x,) = activations(1, (batch, inner, height, width), layout)
    tensors = {
        "x": x,
        "qkv": torch.randn(3 * channels, inner) / inner**0.5,
        "depthwise": torch.randn(3 * channels, 1, 3, 3) / 3,
        "temperature": 1 + torch.rand(heads),
        "weight": torch.randn(outer, channels) / channels**0.5,
    }
    if "bias" in parts:
        tensors["qkv_bias"] = torch.randn(3 * channels)
        tensors["depthwise_bias"], tensors["bias"] = torch.randn(3 * channels), torch.randn(outer)
    if "norm" in parts:
        tensors["scale"] = 1 + 0.1 * torch.randn(inner)
        tensors["shift"] = 0.1 * torch.randn(inner)
    if "residual" in parts:
        (tensors["residual"],) = activations(1, (batch, outer, height, width), layout)
    order = ("x", "qkv", "qkv_bias", "depthwise", "depthwise_bias", "temperature", "weight")
    return Sample(
        f"{'x'.join(map(str, shape))}-{layout}-heads{heads}-{inner}to{outer}-{'-'.join(parts)}",
        tensors,
        with_norm(transposed_attention),
        lambda **t: (*map(t.get, (*order, "bias", "residual")), "norm" in parts, 1e-5),
        frozenset(tensors) - {"x", "residual"},
    )


def transposed_samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    shapes = (2, 16, 21, 110), (2, 12, 9, 31)
    yield transposed_sample(shapes[0], "channels_last", 4, 16, 16, "norm", "bias", "residual")
    yield transposed_sample(shapes[1], "sliced_last", 4, 13, 21, "norm", "bias")
    yield transposed_sample((1, 12, 33, 40), "contiguous", 4, 7, 7, "norm", "residual")
    yield transposed_sample((2, 12, 20, 35), "sliced", 6, 5, 16, "bias")
    yield transposed_sample((2, 9, 5, 3), "expanded", 3, 12, 9)
    yield transposed_sample((2, 16, 6, 20), "channels_last", 4, 12, 12, "norm", "residual")
    yield transposed_sample((0, 8, 16, 16), "channels_last", 2, 8, 8, "norm", "bias")


def transposed_tiny() -> Iterator[Sample]:
    torch.manual_seed(0)
    yield transposed_sample((2, 4, 5, 6), "contiguous", 2, 3, 3, "norm", "bias", "residual")
    yield transposed_sample((1, 2, 3, 4), "channels_last", 1, 3, 2)


SPECS = (
    OpSpec("channel_attention", channel_samples, channel_tiny),
    OpSpec("depthwise_conv", depthwise_samples, depthwise_tiny),
    OpSpec("fft_attention", attention_samples, attention_tiny),
    OpSpec("gated_depthwise_conv", gated_samples, gated_tiny),
    OpSpec("gated_feedforward", feedforward_samples, feedforward_tiny),
    OpSpec("grouped_experts", experts_samples, experts_tiny),
    OpSpec("pointwise_conv", pointwise_samples, pointwise_tiny),
    OpSpec("projected_depthwise_conv", projected_samples, projected_tiny),
    OpSpec("routing_plan", plan_samples, plan_tiny),
    OpSpec("transposed_attention", transposed_samples, transposed_tiny),
    OpSpec("window_fft_conv", window_samples, window_tiny),
)
