"""What gated_feedforward and projected_depthwise_conv run in the CUDA library where it takes x.

Against the reference in float64, on a GPU or with what test_cuda_kernels.py compiles for CPUs.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels.ops import fused_feedforward
from tests.ops.samples import gated_feedforward, projected_depthwise_conv
from tests.ops.spec import Sample, device_of_library
from tests.ops.test_all_ops import error

# As tests/ops/spec.py has them.
FLOOR = {torch.float32: 3e-7, torch.bfloat16: 2e-4, torch.float16: 3e-5}
DTYPES = list(FLOOR)
of_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
of_each_size = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:]
)


@pytest.fixture(scope="module")
def device() -> torch.device:
    return device_of_library("gated_feedforward", "fused_feedforward")


def feedforward(channels: int, hidden: int, size: tuple[int, int, int], *more: str) -> Sample:
    """``more``: the layout, then the parts."""
    batch, *image = size
    shape = (batch, channels, *image)
    return gated_feedforward.sample(shape, more[0], hidden, *more[1:])  # type: ignore[arg-type]


def projection(channels: int, outer: int, size: tuple[int, int, int], *more: str) -> Sample:
    batch, *image = size
    shape = (batch, channels, *image)
    return projected_depthwise_conv.sample(shape, more[0], outer, 3, *more[1:])  # type: ignore[arg-type]


def raw(s: Sample, tensors: dict[str, Tensor], tf32: bool = False) -> tuple[Any, tuple[Any, ...]]:
    """The raw operator and its arguments: LayerNorm's scale and shift are in the first product."""
    t = dict(tensors)
    gated = "project_in" in t
    weight, bias = ("project_in", "in_bias") if gated else ("weight", "bias")
    if "scale" in t:
        scale, shift = t["scale"].float(), t["shift"].float()
        t[bias] = t[weight].float() @ shift + t.get(bias, 0)
        t[weight] = t[weight].float() * scale
    ops = torch.ops.moce_kernels
    return ops.fused_feedforward if gated else ops.fused_projection, (*s.raw(**t), tf32)


def call(s: Sample, tensors: dict[str, Tensor], tf32: bool = False) -> Tensor:
    operator, arguments = raw(s, tensors, tf32)
    return operator(*arguments)


def check(s: Sample, dtype: torch.dtype, device: torch.device) -> None:
    """Error at most twice that of plain PyTorch in the same precision."""
    rounded = s.rounded(dtype)
    cast = rounded.cast(dtype, device)
    ours = call(rounded, cast)
    exact = rounded.call("reference", **rounded.cast(torch.float64))
    plain = rounded.call("reference", **cast)
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=torch.channels_last)
    assert error(ours, exact) <= 2 * error(plain, exact) + FLOOR[dtype], s.name


@of_each_dtype
@pytest.mark.parametrize(
    ("channels", "hidden", "size", "parts"),
    [
        (16, 32, (2, 12, 16), ("norm", "bias")),  # whole tiles
        (16, 1, (1, 1, 1), ("norm", "bias")),
        (32, 85, (1, 26, 35), ("norm",)),  # a chunk that is not full, tiles neither
        (48, 33, (2, 5, 17), ("bias",)),
        (64, 64, (1, 13, 20), ()),
        (64, 40, (1, 25, 7), ("norm", "bias")),
    ],
)
def test_feedforward(
    channels: int,
    hidden: int,
    size: tuple[int, int, int],
    parts: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    for layout in ("channels_last", "sliced_last"):
        check(feedforward(channels, hidden, size, layout, *parts), dtype, device)


@of_each_dtype
@pytest.mark.parametrize(
    ("channels", "outer", "size", "parts"),
    [
        (16, 64, (2, 12, 16), ("norm", "bias")),  # whole tiles
        (16, 2, (1, 1, 1), ("norm", "bias")),
        (32, 96, (1, 26, 35), ("norm",)),  # the second half of the second chunk is beyond the end
        (48, 70, (2, 5, 17), ("bias",)),
        (64, 192, (1, 13, 20), ()),
    ],
)
def test_projection(
    channels: int,
    outer: int,
    size: tuple[int, int, int],
    parts: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    for layout in ("channels_last", "sliced_last"):
        check(projection(channels, outer, size, layout, *parts), dtype, device)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(
    ("channels", "size", "parts"),
    [
        (96, (1, 9, 20), ("norm", "bias")),
        (128, (2, 4, 16), ("norm",)),
        (128, (1, 7, 37), ("bias",)),
    ],
)
def test_more_channels_of_16_bits(
    channels: int,
    size: tuple[int, int, int],
    parts: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    for kind, outer in ((feedforward, 70), (projection, 200)):
        check(kind(channels, outer, size, "channels_last", *parts), dtype, device)


@pytest.mark.parametrize("kind", [feedforward, projection], ids=lambda kind: kind.__name__)
def test_one_product_of_tf32(kind: Any, device: torch.device) -> None:
    """What is multiplied is rounded to TF32, and nothing else: a number that is nearly between two
    of TF32 may be taken for the other one."""
    torch.manual_seed(0)
    s = kind(48, 40, (1, 9, 20), "channels_last")
    exact = s.call("reference", **s.cast(torch.float64))
    cast = s.cast(torch.float32, device)
    ours, t = call(s, cast, tf32=True), {name: of.double() for name, of in s.tensors.items()}
    weight = nearest_tf32(t["project_in" if kind is feedforward else "weight"])
    hidden = torch.einsum("nc,bchw->bnhw", weight, nearest_tf32(t["x"]))
    expected = torch.nn.functional.conv2d(hidden, t["depthwise"], padding=1, groups=hidden.shape[1])
    if kind is feedforward:
        a, b = expected.chunk(2, 1)
        gated = nearest_tf32(torch.nn.functional.gelu(a) * b)
        out = torch.einsum("cn,bnhw->bchw", nearest_tf32(t["project_out"]), gated)
        expected = t["x"] + out
    assert error(ours, expected) < 3e-5 < 1e-4 < error(expected, exact)
    assert error(call(s, cast), exact) < 1e-6


def nearest_tf32(t: Tensor) -> Tensor:
    bits = t.float().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32).double()


@of_each_size
@pytest.mark.parametrize("kind", [feedforward, projection], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("offset", [0, 1, 4])
def test_any_alignment(offset: int, kind: Any, dtype: torch.dtype, device: torch.device) -> None:
    """16 bytes are read at a time, or single elements: the same numbers."""
    torch.manual_seed(0)
    s = kind(32, 40, (1, 14, 20), "channels_last", "norm").rounded(dtype)
    cast = s.cast(dtype, device)
    x = cast["x"]
    buffer = torch.full((x.numel() + 8,), float("nan"), dtype=x.dtype, device=device)
    shifted = buffer.as_strided(x.shape, x.stride(), offset).copy_(x)
    assert torch.equal(call(s, {**cast, "x": shifted}), call(s, cast))


@pytest.mark.parametrize("kind", [feedforward, projection], ids=lambda kind: kind.__name__)
def test_matrices_of_any_strides_and_of_either_dtype(kind: Any, device: torch.device) -> None:
    """They are rounded to x's dtype in any case."""
    torch.manual_seed(0)
    s = kind(32, 40, (1, 5, 20), "channels_last", "bias").rounded(torch.float16)
    cast = s.cast(torch.float16, device)
    changed = {
        name: t.half().t().contiguous().t() if t.dim() == 2 else t for name, t in cast.items()
    }
    assert torch.equal(call(s, changed), call(s, cast))


@of_each_size
@pytest.mark.parametrize("kind", [feedforward, projection], ids=lambda kind: kind.__name__)
def test_images_and_pixels_do_not_mix(kind: Any, dtype: torch.dtype, device: torch.device) -> None:
    """A NaN stays in its own pixel and the eight around it."""
    torch.manual_seed(0)
    s = kind(16, 16, (2, 30, 40), "channels_last", "norm").rounded(dtype)
    cast = s.cast(dtype, device)
    clean = call(s, cast)
    for y, x in ((0, 0), (11, 15), (12, 16), (29, 39)):
        spoilt = cast["x"].clone(memory_format=torch.preserve_format)
        spoilt[1, 3, y, x] = float("nan")
        found = call(s, {**cast, "x": spoilt})
        around = torch.zeros(2, 30, 40, dtype=torch.bool, device=device)
        around[1, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        assert found.isnan().all(1).equal(around) and found.isnan().any(1).equal(around)
        assert torch.equal(found.where(~around[:, None], 0), clean.where(~around[:, None], 0))


@pytest.mark.parametrize(
    ("kind", "barrier"),
    # After the load, the norm, both halves of two chunks, the sums.
    [(feedforward, n) for n in range(1, 8)] + [(projection, n) for n in range(1, 6)],
    ids=lambda value: getattr(value, "__name__", value),
)
@of_each_size
def test_a_missing_barrier_shows(
    kind: Any,
    barrier: int,
    dtype: torch.dtype,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where threads take turns: these tests would find it."""
    if device.type == "cuda":
        pytest.skip("a GPU leaves no barrier out")
    torch.manual_seed(0)
    hidden = (64 if kind is feedforward else 128) * 2 // dtype.itemsize
    s = kind(16, hidden, (1, 24, 32), "channels_last", "norm").rounded(dtype)
    cast = s.cast(dtype)
    expected = call(s, cast)
    monkeypatch.setenv("MOCE_EMULATED_WITHOUT_BARRIER", str(barrier))
    assert not torch.equal(call(s, cast), expected)


def test_no_pixels(device: torch.device) -> None:
    for s, channels in (
        (feedforward(16, 8, (0, 8, 8), "channels_last", "norm", "bias"), 16),
        (projection(16, 24, (0, 8, 8), "channels_last", "norm", "bias"), 24),
    ):
        assert call(s, s.cast(torch.float16, device)).shape == (0, channels, 8, 8)


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [(torch.bfloat16, "none"), (torch.float32, "none"), (torch.float32, "tf32")],
)
@pytest.mark.parametrize("name", ["gated_feedforward", "projected_depthwise_conv"])
def test_the_operators_run_it(
    name: str,
    dtype: torch.dtype,
    asked: str,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In place of their parts, which are not called; float32 is multiplied as PyTorch is told."""
    pytest.importorskip("triton")
    from importlib import import_module

    from moce_kernels.triton_kernels import _common
    from moce_kernels.triton_kernels._parts import Parts

    monkeypatch.setattr(_common, "compute_capability", lambda: 90)

    def never(*arguments: Any) -> Tensor:
        raise AssertionError("a part was called")

    ops = torch.ops.moce_kernels
    parts = Parts(*[never] * 6, ops.fused_feedforward, ops.fused_projection)
    kind = feedforward if name == "gated_feedforward" else projection
    s = kind(16, 8, (1, 5, 6), "channels_last", "norm", "bias")
    operator, arguments = raw(s, s.cast(dtype, device), tf32=asked == "tf32")
    forward = import_module(f"moce_kernels.triton_kernels.{name}").forward
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = asked
    try:
        ours = forward(*arguments[:-1], parts=parts)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert torch.equal(ours, operator(*arguments))


def test_what_they_take() -> None:
    x = torch.empty(1, 32, 4, 4, dtype=torch.bfloat16, memory_format=torch.channels_last)
    for products in ("ieee", "tf32", "tf32x3"):
        takes = functools.partial(fused_feedforward.takes, products=products)
        assert takes(x) and takes(x.half())
        assert takes(x.float()) == (products != "ieee")
        assert not takes(x.double()) and not takes(x.contiguous())
        for channels in (96, 128):
            wide = x[:, :1].expand(1, channels, 4, 4).contiguous(memory_format=torch.channels_last)
            assert takes(wide) and not takes(wide.float())
        for channels in (8, 24, 80, 256):
            narrow = x[:, :1].expand(1, channels, 4, 4)
            assert not takes(narrow.contiguous(memory_format=torch.channels_last))
    for outer, kernel in ((96, 3), (95, 3), (96, 7)):
        weight, depthwise = torch.empty(outer, 32), torch.empty(outer, 1, kernel, kernel)
        taken = fused_feedforward.takes_projection(x, weight, depthwise, "ieee")
        assert taken == (outer % 2 == 0 and kernel == 3)


@pytest.mark.parametrize("kind", [feedforward, projection], ids=lambda kind: kind.__name__)
def test_registration(kind: Any, device: torch.device) -> None:
    s = kind(16, 8, (1, 5, 6), "channels_last", "norm", "bias")
    operator, arguments = raw(s, s.cast(torch.bfloat16, device))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator.default, arguments, test_utils=checks)


@pytest.mark.parametrize("kind", [feedforward, projection], ids=lambda kind: kind.__name__)
def test_refusals(kind: Any, device: torch.device) -> None:
    s = kind(16, 8, (1, 5, 6), "channels_last", "norm", "bias")
    operator, good = raw(s, s.cast(torch.bfloat16, device))
    x, weight = good[:2]
    wide = torch.cat([x, x[:, :8]], 1).contiguous(memory_format=torch.channels_last)
    for bad, message in (
        ({0: x.double()}, "expected float32, bfloat16 or float16"),
        ({0: x.contiguous()}, "x must be channels-last"),
        ({0: wide}, "x must have 16, 32, 48 or 64 channels, or .* not 24"),
        ({1: weight[1:]}, "project_in must be|weight must be"),
        ({2: weight}, "in_bias must be"),
        ({3: good[3].half()}, "depthwise must be"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operator(*(bad.get(i, value) for i, value in enumerate(good)))
