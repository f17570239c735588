"""The first pass of transposed_attention in the CUDA library, where it takes x: v, and what the
attention over channels compares.

Against the reference in float64, on a GPU or with what test_cuda_kernels.py compiles for CPUs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from moce_kernels.ops import fused_feedforward
from moce_kernels.reference.projected_depthwise_conv import projected_depthwise_conv
from tests.ops.samples import transposed_attention
from tests.ops.spec import Sample, device_of_library
from tests.ops.test_all_ops import error
from tests.ops.test_fused_feedforward import FLOOR

DTYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def device() -> torch.device:
    return device_of_library("gated_feedforward", "fused_attention_sums")


class Found(NamedTuple):
    v: Tensor
    gram: Tensor  # (B, heads, c, c)
    squares: Tensor  # (B, 2, C)


def sample(
    channels: int, heads: int, size: tuple[int, int, int], layout: str, *parts: str
) -> Sample:
    batch, *image = size
    shape = (batch, channels, *image)
    return transposed_attention.sample(shape, layout, heads, channels, channels, *parts)  # type: ignore[arg-type]


def arguments(s: Sample, tensors: dict[str, Tensor], parts: int) -> tuple[Any, ...]:
    """LayerNorm's scale and shift are in the product."""
    t = dict(tensors)
    if "scale" in t:
        t["qkv_bias"] = t["qkv"].float() @ t["shift"].float() + t.get("qkv_bias", 0)
        t["qkv"] = t["qkv"].float() * t["scale"].float()
    x, qkv, qkv_bias, depthwise, depthwise_bias, temperature, *_, norm, eps = s.raw(**t)
    return x, qkv, qkv_bias, depthwise, depthwise_bias, len(temperature), parts, norm, eps


def call(s: Sample, tensors: dict[str, Tensor], parts: int = 3) -> Found:
    v, sums = torch.ops.moce_kernels.fused_attention_sums(*arguments(s, tensors, parts))
    batch, channels = v.shape[:2]
    head = channels // len(tensors["temperature"])
    assert sums.shape == (batch, parts, channels * (head + 2))
    gram, squares = sums.sum(1).split([channels * head, 2 * channels], 1)
    return Found(v, gram.view(batch, -1, head, head), squares.view(batch, 2, channels))


def composed(s: Sample, tensors: dict[str, Tensor]) -> Found:
    """In plain PyTorch: q, k and v in the tensors' dtype, what is made of q and k in float32."""
    t = tensors
    norm = (t["scale"], t["shift"]) if "scale" in t else None
    query = projected_depthwise_conv(
        t["x"], t["qkv"], t["depthwise"], t.get("qkv_bias"), t.get("depthwise_bias"), norm
    )
    q, k, v = query.chunk(3, 1)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    batch, channels, *_ = q.shape
    q, k = (u.to(wide).reshape(batch, len(t["temperature"]), -1, u[0, 0].numel()) for u in (q, k))
    squares = torch.stack([q.square().sum(3), k.square().sum(3)], 1)
    return Found(v, q @ k.mT, squares.view(batch, 2, channels))


CASES = [
    (16, 1, (2, 12, 16), ("norm", "bias")),  # whole tiles
    (16, 1, (1, 1, 1), ("norm", "bias")),
    (32, 1, (2, 26, 35), ("norm",)),
    (32, 2, (1, 11, 17), ("bias",)),
    (48, 1, (1, 17, 20), ("norm",)),  # a half of a chunk is not full
    (48, 3, (2, 5, 17), ()),
    (64, 1, (1, 9, 37), ("norm",)),
    (64, 2, (1, 25, 7), ("norm", "bias")),
    (96, 2, (1, 5, 37), ("norm",)),
    (96, 6, (1, 4, 16), ()),
    (64, 4, (1, 9, 10), ()),
    (128, 4, (1, 7, 20), ("norm", "bias")),
]


@pytest.mark.parametrize(
    ("channels", "heads", "size", "parts", "dtype"),
    # 128 channels of float16 are refused.
    [(*case, t) for case in CASES for t in DTYPES if (case[0], t) != (128, torch.float16)],
)
def test_sums(
    channels: int,
    heads: int,
    size: tuple[int, int, int],
    parts: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Error at most twice that of plain PyTorch in the same precision."""
    torch.manual_seed(0)
    for layout in ("channels_last", "sliced_last"):
        s = sample(channels, heads, size, layout, *parts).rounded(dtype)
        cast = s.cast(dtype, device)
        ours, plain = call(s, cast), composed(s, cast)
        exact = composed(s, s.cast(torch.float64))
        assert ours.v.dtype == dtype and ours.v.is_contiguous(memory_format=torch.channels_last)
        for found, usual, right in zip(ours, plain, exact, strict=True):
            assert error(found, right) <= 2 * error(usual, right) + FLOOR[dtype], s.name


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_any_number_of_parts(count: int, device: torch.device) -> None:
    """Also more than there are tiles; each is the sum over the tiles of one."""
    torch.manual_seed(0)
    s = sample(32, 2, (2, 23, 40), "channels_last", "norm").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, device)
    ours, expected = call(s, cast, count), call(s, cast)
    assert torch.equal(ours.v, expected.v)
    # Tensor cores cut sums off.
    assert error(ours.gram, expected.gram) < 1e-5 and error(ours.squares, expected.squares) < 1e-5
    again = call(s, cast, count)
    assert torch.equal(ours.gram, again.gram) and torch.equal(ours.squares, again.squares)


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_any_alignment(offset: int, device: torch.device) -> None:
    """16 bytes are read at a time, or single elements: the same numbers."""
    torch.manual_seed(0)
    s = sample(32, 1, (1, 14, 20), "channels_last", "norm").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, device)
    x = cast["x"]
    buffer = torch.full((x.numel() + 8,), float("nan"), dtype=x.dtype, device=device)
    shifted = buffer.as_strided(x.shape, x.stride(), offset).copy_(x)
    for found, expected in zip(call(s, {**cast, "x": shifted}), call(s, cast), strict=True):
        assert torch.equal(found, expected)


def test_images_and_pixels_do_not_mix(device: torch.device) -> None:
    """A NaN spoils v in its own pixel and the eight around it, and the sums of its image."""
    torch.manual_seed(0)
    s = sample(16, 1, (2, 30, 40), "channels_last", "norm").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, device)
    clean = call(s, cast)
    for y, x in ((0, 0), (11, 15), (12, 16), (29, 39)):
        spoilt = cast["x"].clone(memory_format=torch.preserve_format)
        spoilt[1, 3, y, x] = float("nan")
        found = call(s, {**cast, "x": spoilt})
        around = torch.zeros(2, 30, 40, dtype=torch.bool, device=device)
        around[1, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        assert found.v.isnan().all(1).equal(around) and found.v.isnan().any(1).equal(around)
        for sums, before in ((found.gram, clean.gram), (found.squares, clean.squares)):
            assert sums[1].isnan().all() and torch.equal(sums[0], before[0])


# After the load, the norm, both steps of q and k, those of v.
@pytest.mark.parametrize("barrier", range(1, 7))
def test_a_missing_barrier_shows(
    barrier: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where threads take turns: these tests would find it."""
    if device.type == "cuda":
        pytest.skip("a GPU leaves no barrier out")
    torch.manual_seed(0)
    s = sample(16, 1, (1, 24, 64), "channels_last", "norm").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16)
    expected = call(s, cast, 2)
    monkeypatch.setenv("MOCE_EMULATED_WITHOUT_BARRIER", str(barrier))
    found = call(s, cast, 2)
    assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_operator_runs_it(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of its parts, which are not called."""
    pytest.importorskip("triton")
    from moce_kernels.triton_kernels import channel_attention
    from moce_kernels.triton_kernels import transposed_attention as ours
    from moce_kernels.triton_kernels._parts import Parts

    def never(*arguments: Any) -> Tensor:
        raise AssertionError("a part was called")

    fused = torch.ops.moce_kernels.fused_attention_sums
    parts = Parts(*[never] * 8, fused)
    s = sample(32, 2, (1, 9, 11), "channels_last", "norm", "bias").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, device)
    given: list[Any] = []
    monkeypatch.setattr(channel_attention, "attend", lambda *a: given.extend(a) or a)
    norm, eps = s.raw(**cast)[-2:]
    x, qkv, qkv_bias, depthwise, depthwise_bias, *_ = arguments(s, cast, 1)
    temperature, weight, bias = cast["temperature"], cast["weight"], cast["bias"]
    ours.forward(
        *(x, qkv, qkv_bias, depthwise, depthwise_bias, temperature, weight, bias, x, norm, eps),
        parts=parts,
    )
    v, sums, *rest, out = given
    expected = fused(*arguments(s, cast, sums.shape[1]))
    assert torch.equal(v, expected[0]) and torch.equal(sums, expected[1])
    assert all(a is b for a, b in zip(rest, (temperature, weight, bias, x), strict=True))
    assert out.shape == x.shape


def test_what_it_takes() -> None:
    x = torch.empty(1, 32, 4, 4, dtype=torch.bfloat16, memory_format=torch.channels_last)
    takes = fused_feedforward.takes_attention
    assert takes(x, 1, 32) and takes(x.half(), 2, 32)
    assert not takes(x.float(), 1, 32) and not takes(x.contiguous(), 1, 32)
    assert not takes(x, 4, 32) and not takes(x, 1, 64)
    wide = torch.empty(1, 128, 4, 4, dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert takes(wide, 4, 128) and not takes(wide, 2, 128) and not takes(wide.double(), 4, 128)
    assert not takes(wide.half(), 4, 128)
    wide = torch.empty(1, 192, 4, 4, dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert not takes(wide, 6, 192)
    narrower = wide[:, :96].contiguous(memory_format=torch.channels_last)
    assert takes(narrower, 2, 96) and not takes(narrower, 1, 96)


def test_registration(device: torch.device) -> None:
    s = sample(16, 1, (1, 5, 6), "channels_last", "norm", "bias")
    checks = ("test_schema", "test_faketensor")
    operator = torch.ops.moce_kernels.fused_attention_sums.default
    given = arguments(s, s.cast(torch.bfloat16, device), 2)
    torch.library.opcheck(operator, given, test_utils=checks)


def test_refusals(device: torch.device) -> None:
    s = sample(32, 2, (1, 5, 6), "channels_last", "norm", "bias")
    good = arguments(s, s.cast(torch.bfloat16, device), 2)
    x, weight = good[:2]
    for bad, message in (
        ({0: x.float()}, "x must have 16 bits"),
        ({0: x.contiguous()}, "x must be channels-last"),
        ({0: x[0]}, r"x must be \(B, C, H, W\)"),
        ({0: x[:0]}, "x must have pixels"),
        ({1: weight[1:]}, "project_in must be"),
        ({2: weight}, "in_bias must be"),
        ({3: good[3].half()}, "depthwise must be"),
        ({5: 4}, "a head must have a multiple of 16 channels, not 32 / 4"),
        ({5: 0}, "a head must have"),
        ({0: torch.cat([x] * 4, 1), 5: 2}, "a head must have at most 48 of 128 channels"),
        ({0: torch.cat([x] * 4, 1).half(), 5: 4}, "128 channels must be bfloat16"),
        ({6: 0}, "there must be a part"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.moce_kernels.fused_attention_sums(
                *(bad.get(i, value) for i, value in enumerate(good))
            )
