"""A GDFN in one kernel, which gated_feedforward runs in the CUDA library where it takes x.

Against the reference in float64, on a GPU or with what test_cuda_kernels.py compiles for CPUs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moce_kernels import native
from moce_kernels.backends import why_not
from moce_kernels.ops import fused_feedforward
from tests.ops.samples.gated_feedforward import sample
from tests.ops.spec import Sample
from tests.ops.test_all_ops import error

DTYPES = [torch.bfloat16, torch.float16]
FLOOR = {torch.bfloat16: 2e-4, torch.float16: 3e-5}  # as tests/ops/spec.py has them


@pytest.fixture(scope="module")
def device() -> torch.device:
    if torch.cuda.is_available():
        reason = why_not("cuda", "gated_feedforward", torch.device("cuda"))
        if reason:
            pytest.skip(f"cuda: {reason}")
        return torch.device("cuda")
    reason = native.load("cpu")
    if reason or not torch._C._dispatch_has_kernel_for_dispatch_key(
        "moce_kernels::fused_feedforward", "CPU"
    ):
        pytest.skip("no GPU; test_cuda_kernels.py runs these tests with an emulated one")
    return torch.device("cpu")


def run(s: Sample, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ours, plain PyTorch's in the same precision, and the exact result."""
    rounded = s.rounded(dtype)
    cast = rounded.cast(dtype, device)
    assert fused_feedforward.takes(cast["x"])
    ours = torch.ops.moce_kernels.fused_feedforward(*folded(rounded, cast))
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=torch.channels_last)
    exact = rounded.call("reference", **rounded.cast(torch.float64))
    return ours, rounded.call("reference", **cast), exact


def folded(s: Sample, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    """The raw operator's arguments: LayerNorm's scale and shift are in the first product."""
    t = dict(tensors)
    if "scale" in t:
        weight, scale, shift = (t[name].float() for name in ("project_in", "scale", "shift"))
        t["in_bias"] = weight @ shift + t.get("in_bias", 0)
        t["project_in"] = weight * scale
    return s.raw(**t)


def check(s: Sample, dtype: torch.dtype, device: torch.device) -> None:
    ours, plain, exact = run(s, dtype, device)
    assert error(ours, exact) <= 2 * error(plain, exact) + FLOOR[dtype], s.name


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
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
def test_against_float64(
    channels: int,
    hidden: int,
    size: tuple[int, int, int],
    parts: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    batch, height, width = size
    for layout in ("channels_last", "sliced_last"):
        check(sample((batch, channels, height, width), layout, hidden, *parts), dtype, device)


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_any_alignment(offset: int, device: torch.device) -> None:
    """16 bytes are read at a time, or single elements: the same numbers."""
    torch.manual_seed(0)
    s = sample((1, 32, 14, 20), "channels_last", 40, "norm").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, device)
    expected = torch.ops.moce_kernels.fused_feedforward(*folded(s, cast))
    x = cast["x"]
    buffer = torch.full((x.numel() + 8,), float("nan"), dtype=x.dtype, device=device)
    shifted = buffer.as_strided(x.shape, x.stride(), offset).copy_(x)
    found = torch.ops.moce_kernels.fused_feedforward(*folded(s, {**cast, "x": shifted}))
    assert torch.equal(found, expected)


def test_images_and_pixels_do_not_mix(device: torch.device) -> None:
    """A NaN stays in its own pixel and the eight around it."""
    torch.manual_seed(0)
    s = sample((2, 16, 30, 40), "channels_last", 16, "norm").rounded(torch.bfloat16)
    cast = s.cast(torch.bfloat16, device)
    clean = torch.ops.moce_kernels.fused_feedforward(*folded(s, cast))
    for y, x in ((0, 0), (11, 15), (12, 16), (29, 39)):
        spoilt = cast["x"].clone(memory_format=torch.preserve_format)
        spoilt[1, 3, y, x] = float("nan")
        found = torch.ops.moce_kernels.fused_feedforward(*folded(s, {**cast, "x": spoilt}))
        around = torch.zeros(2, 30, 40, dtype=torch.bool, device=device)
        around[1, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        assert found.isnan().all(1).equal(around) and found.isnan().any(1).equal(around)
        assert torch.equal(found.where(~around[:, None], 0), clean.where(~around[:, None], 0))


@pytest.mark.parametrize("barrier", range(1, 8))
def test_a_missing_barrier_shows(
    barrier: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where threads take turns: after the load, the norm, both halves of two chunks, the sums."""
    if device.type == "cuda":
        pytest.skip("a GPU leaves no barrier out")
    torch.manual_seed(0)
    s = sample((1, 16, 24, 32), "channels_last", 64, "norm").rounded(torch.bfloat16)
    arguments = folded(s, s.cast(torch.bfloat16))
    expected = torch.ops.moce_kernels.fused_feedforward(*arguments)
    monkeypatch.setenv("MOCE_EMULATED_WITHOUT_BARRIER", str(barrier))
    assert not torch.equal(torch.ops.moce_kernels.fused_feedforward(*arguments), expected)


def test_no_pixels(device: torch.device) -> None:
    s = sample((0, 16, 8, 8), "channels_last", 8, "norm", "bias")
    assert torch.ops.moce_kernels.fused_feedforward(
        *folded(s, s.cast(torch.float16, device))
    ).shape == (0, 16, 8, 8)


def test_gated_feedforward_runs_it(device: torch.device) -> None:
    """In place of its parts, which are not called."""
    pytest.importorskip("triton")
    from moce_kernels.triton_kernels import _parts, gated_feedforward

    def never(*arguments: Any) -> Tensor:
        raise AssertionError("a part was called")

    ops = torch.ops.moce_kernels
    parts = _parts.Parts(never, never, never, never, ops.fused_feedforward)
    s = sample((1, 16, 5, 6), "channels_last", 8, "norm", "bias")
    arguments = folded(s, s.cast(torch.bfloat16, device))
    found = gated_feedforward.forward(*arguments, parts=parts)
    assert torch.equal(found, ops.fused_feedforward(*arguments))


def test_what_it_takes() -> None:
    x = torch.empty(1, 32, 4, 4, dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert fused_feedforward.takes(x) and fused_feedforward.takes(x.half())
    assert not fused_feedforward.takes(x.float())
    assert not fused_feedforward.takes(x.contiguous())
    for channels in (8, 24, 80, 128):
        assert not fused_feedforward.takes(x[:, :1].expand(1, channels, 4, 4))


def test_registration(device: torch.device) -> None:
    s = sample((1, 16, 5, 6), "channels_last", 8, "norm", "bias")
    torch.library.opcheck(
        torch.ops.moce_kernels.fused_feedforward.default,
        folded(s, s.cast(torch.bfloat16, device)),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_refusals(device: torch.device) -> None:
    s = sample((1, 16, 5, 6), "channels_last", 8, "norm", "bias")
    good = folded(s, s.cast(torch.bfloat16, device))
    x, weight = good[:2]
    wide = torch.cat([x, x[:, :8]], 1).contiguous(memory_format=torch.channels_last)
    for bad, message in (
        ({0: x.float()}, "x must be of 16 bits"),
        ({0: x.contiguous()}, "x must be channels-last"),
        ({0: wide}, "x must have 16, 32, 48 or 64 channels, not 24"),
        ({1: weight[1:]}, "project_in must be"),
        ({2: weight}, "in_bias must be"),
        ({3: good[3].half()}, "depthwise must be"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.moce_kernels.fused_feedforward(
                *(bad.get(i, value) for i, value in enumerate(good))
            )
