"""What the Triton kernels share: registration, loads and stores, and how they find their work.

Kernels of a single operator and of a layer of experts are the same. They work on "slots": the
images of a batch, or, with a routing plan, the pairs of an image and an expert chosen for it. With
``RANKS`` None there is no plan and one expert of the given rank.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError
from triton.runtime import JITFunction, driver

from moce_kernels import registry
from moce_kernels.failures import KernelUnavailableError
from moce_kernels.ops import _library
from moce_kernels.triton_kernels import interpreted

Function = TypeVar("Function", bound=Callable[..., Any])
INTERPRETED = tl.constexpr(interpreted())
IEEE = tl.constexpr("ieee")  # a plain string would not be a constant to Triton 3.6

IMPLEMENTATIONS: dict[tuple[str, str], Callable[..., Any]] = {}
"""What ``implement`` decorated, by namespace and operator."""


def implement(name: str, namespace: str = _library.TRITON) -> Callable[[Function], Function]:
    """Decorate a function as the implementation of a raw operator on CUDA tensors; Triton's own
    also on CPU tensors, where kernels are interpreted."""

    def register(function: Function) -> Function:
        IMPLEMENTATIONS[namespace, name] = function
        everywhere = interpreted() and namespace == _library.TRITON
        devices = ("cuda", "cpu") if everywhere else ("cuda",)
        torch.library.impl(f"{namespace}::{name}", devices)(launching(name, function))
        return function

    return register


def launching(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, with the first tensor's device as the current one, where Triton launches. A
    kernel that does not compile or load raises KernelUnavailableError."""

    def launch(first: Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(first):
            try:
                return function(first, *rest)
            except Exception as error:
                kernel = None if interpreted() else not_compiled(error)
                if kernel is None:
                    raise
                raise unavailable(name, kernel, error) from error

    return launch


def not_compiled(error: Exception) -> str | None:
    """The kernel that Triton failed to compile or load, if that is what the error is about.

    Triton has classes for some of these errors. Others come from its passes and from the driver as
    RuntimeError, and are known by their way through the compiler.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = (frame.f_globals.get("__name__") for frame in frames)
    if not isinstance(error, TritonError) and "triton.compiler.compiler" not in modules:
        return None
    launched = (frame.f_locals.get("self") for frame in frames)
    return next((k.__name__ for k in launched if isinstance(k, JITFunction)), "one of its kernels")


def unavailable(raw: str, kernel: str, error: Exception) -> KernelUnavailableError:
    """``raw``: the operator as it is registered."""
    operator = raw.partition("_backward")[0]
    capability = compute_capability()
    return KernelUnavailableError(
        operator,
        f"Triton cannot compile or load {kernel} for this GPU (compute capability "
        f"{capability // 10}.{capability % 10}): {type(error).__name__}: {error}",
        registry.whose_gradients_call(operator),
    )


class Plan(NamedTuple):
    """A routing plan as the kernels take it; ``NO_PLAN`` where slots are images."""

    expert: Tensor | None
    order: Tensor | None
    offsets: Tensor | None
    ranks: tuple[int, ...] | None
    windows: tuple[int, ...]

    @property
    def by_slot(self) -> dict[str, Any]:
        """What a kernel takes whose programs find the expert of a slot."""
        return {
            "index": self.expert,
            "order": self.order,
            "RANKS": self.ranks,
            "WINDOWS": self.windows,
        }

    @property
    def by_expert(self) -> dict[str, Any]:
        """What a kernel takes whose programs find the slots of an expert."""
        return {
            "order": self.order,
            "offsets": self.offsets,
            "RANKS": self.ranks,
            "WINDOWS": self.windows,
        }

    @property
    def experts(self) -> int:
        return len(self.ranks) if self.ranks else 1

    @property
    def widest(self) -> int:
        """The greatest rank of all experts."""
        return max(self.ranks or ())

    def total(self, rank: int) -> int:
        """The ranks of all experts."""
        return sum(self.ranks) if self.ranks else rank

    def channels(self, rank: int, times: int) -> list[int]:
        """Of each expert."""
        return [times * r for r in self.ranks or (rank,)]


def no_plan(window: int = 0) -> Plan:
    return Plan(None, None, None, None, (window,))


class Strided(NamedTuple):
    """A tensor (B, C, H, W) as the kernels take it: its first element, and strides in elements."""

    data: Any
    b: Any
    c: Any
    h: Any
    w: Any


def strided(t: Tensor) -> Strided:
    return Strided(t, *t.stride())


def up_to(most: int, count: int) -> int:
    """How many of ``count`` a program takes; tensor cores take 16 at least."""
    return min(most, max(16, triton.next_power_of_2(count)))


def blocks(count: int, size: int) -> int:
    return -(-count // size)


def pixel_block(count: int, size: int) -> int:
    """How many of an image's ``size`` pixels a program takes. The interpreter is quickest with few
    and large programs."""
    return min(16 * count, triton.next_power_of_2(size)) if interpreted() else count


def splits(items: int, most: int = 256) -> int:
    """How many programs share the sum over so many items. It depends on nothing but the sizes, so
    that the order of the sum does not either."""
    return max(1, min(items, most))


def scratch(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised (B, C, H, W), channels-last."""
    return torch.empty(
        tuple(shape),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def alignment(channels: Sequence[int], *tensors: Tensor) -> int:
    """How many channels at a time, up to 4, may be loaded and stored as one vector, of tensors
    that hold so many of them."""
    whole = math.gcd(4, *channels)
    for t in tensors:
        batch, channel, row, column = t.stride()
        if channel != 1:
            return 1
        whole = math.gcd(whole, batch, row, column, t.data_ptr() // t.element_size())
    return whole


def flat(*tensors: Tensor) -> bool:
    """Whether the rows of every image follow each other without a gap."""
    return all(t.shape[2] == 1 or t.stride(2) == t.shape[3] * t.stride(3) for t in tensors)


def float32_precision(sensitive: bool = False) -> str:
    """How products of float32 are computed. As PyTorch is told for its own matrix products, in TF32
    or in full; where it is told nothing, in three products of TF32, which leave out 2^-22 of a
    term, and in full where what follows magnifies a rounding."""
    asked = torch.backends.cuda.matmul.fp32_precision
    if asked == "tf32":
        return "tf32"
    return "ieee" if asked == "ieee" or sensitive or compute_capability() < 80 else "tf32x3"


def compute_capability() -> int:
    """Of the current GPU, 10 times: 90 is 9.0; 0 where kernels are interpreted."""
    return 0 if interpreted() else driver.active.get_current_target().arch


@triton.jit
def load(pointers, mask):
    """As float32; zero where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """float32 rounded to the nearest value of the dtype."""
    if INTERPRETED and dtype == tl.bfloat16:
        # The interpreter truncates: leave it nothing to truncate. Compiled kernels round.
        bits = value.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        return tl.where(value == value, nearest.to(tl.float32, bitcast=True), value)
    else:
        return value.to(dtype)


@triton.jit
def store(pointers, value, mask):
    """Rounded to the nearest value of the tensor's dtype."""
    tl.store(pointers, rounded(value, pointers.dtype.element_ty), mask=mask)


@triton.jit
def image_of(t, i):
    """Image or slot i of a ``Strided`` tensor, as one that begins there."""
    return Strided(t.data + i * t.b, t.b, t.c, t.h, t.w)


@triton.jit
def pixels(image, p, c, width):
    """(P, C) pointers into an image: pixels numbered row by row, channels."""
    y, x = (p // width).to(tl.int64), (p % width).to(tl.int64)
    return (image.data + y * image.h + x * image.w)[:, None] + c.to(tl.int64)[None, :] * image.c


@triton.jit
def places(image, first, p, c, width, FLAT: tl.constexpr):
    """(P, C) pointers into an image: pixels first + p, numbered row by row, and channels. Where
    images are FLAT no pixel costs a division."""
    if FLAT:
        row = image.data + tl.cast(first, tl.int64) * image.w
        return (row + p.to(tl.int64) * image.w)[:, None] + c.to(tl.int64)[None, :] * image.c
    else:
        return pixels(image, first + p, c, width)


@triton.jit
def aligned(n, ALIGNED: tl.constexpr):
    """n, a multiple of ALIGNED, such that the compiler knows it."""
    return n // ALIGNED * ALIGNED


@triton.jit
def aligned_strides(t, ALIGNED: tl.constexpr):
    """A ``Strided`` tensor, of whose strides but the channels' the compiler knows the same."""
    b, h, w = aligned(t.b, ALIGNED), aligned(t.h, ALIGNED), aligned(t.w, ALIGNED)
    return Strided(t.data, b, t.c, h, w)


@triton.jit
def tile_offsets(t, column, c):
    """(columns, channels) offsets of elements in a row of an image of t."""
    return column.to(tl.int64)[:, None] * t.w + c.to(tl.int64)[None, :] * t.c


@triton.jit
def product(a, b, PRECISION: tl.constexpr = IEEE):
    """The matrix product, summed in float32: of a's 16-bit numbers, or of float32 at this
    precision."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    # Tensor cores cut off what float32 has no place for, always in the same direction. With a limit
    # Triton does not let them go on with the sum that this is added to: short sums lose little.
    LIMIT: tl.constexpr = 1 if PRECISION == "tf32x3" and a.dtype == tl.float32 else 0
    return tl.dot(a, b.to(a.dtype), input_precision=PRECISION, max_num_imprecise_acc=LIMIT)


@triton.jit
def exp(x):
    """e^x for x <= 0, to the last bit or two (Cody and Waite): a GPU's own is off by several, which
    the differences that the gradient of a softmax consists of would magnify."""
    x = tl.where(x < -87.0, -87.0, x)
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    x = tl.fma(n, -0.693359375, x)
    x = tl.fma(n, 2.12194440e-4, x)
    y = x * 1.9875691500e-4 + 1.3981999507e-3
    y = y * x + 8.3334519073e-3
    y = y * x + 4.1665795894e-2
    y = y * x + 1.6666665459e-1
    y = y * x + 5.0000001201e-1
    power = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return (y * x * x + x + 1.0) * power


@triton.jit
def expert_shape(e, RANKS: tl.constexpr, WINDOWS: tl.constexpr, rank):
    """Expert e's rank, the ranks and the squares of ranks before its own, its window."""
    if RANKS is None:
        return rank, 0, 0, WINDOWS[0]
    else:
        r, rows, squares, window = e * 0, e * 0, e * 0, e * 0 + 4
        for i in tl.static_range(len(RANKS)):
            r = tl.where(e == i, RANKS[i], r)
            window = tl.where(e == i, WINDOWS[i], window)
            rows += tl.where(e > i, RANKS[i], 0)
            squares += tl.where(e > i, RANKS[i] * RANKS[i], 0)
        return r, rows, squares, window


@triton.jit
def slot_and_expert(i, index, order, RANKS: tl.constexpr):
    """The i-th slot in the order of the experts, and its expert."""
    if RANKS is None:
        return i.to(tl.int64), 0
    else:
        slot = tl.load(order + i)
        return slot, tl.load(index + slot).to(tl.int32)


@triton.jit
def slots_of(e, offsets, slots, RANKS: tl.constexpr):
    """Expert e's first place in the order, and how many follow."""
    if RANKS is None:
        return 0, slots
    else:
        first = tl.load(offsets + e)
        return first.to(tl.int32), (tl.load(offsets + e + 1) - first).to(tl.int32)


@triton.jit
def slot_at(i, order, RANKS: tl.constexpr):
    if RANKS is None:
        return i.to(tl.int64)
    else:
        return tl.load(order + i)
