"""What is particular to fft_attention."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moce_kernels import fft_attention
from moceir import machine
from tests.ops.spec import (
    activations,
    assert_close_to_float64,
    examples,
    sizes,
    skip_unless_it_runs,
)
from tests.published_weights import filled, golden


def inputs(
    shape: tuple[int, int, int, int] = (1, 4, 6, 6), layout: str = "contiguous"
) -> list[Tensor]:
    return [*activations(3, shape, layout), torch.ones(shape[1]), torch.zeros(shape[1])]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("window", [4, 8, 16, 32])
def test_published_module(window: int, backend: str) -> None:
    """The published FFTAttention module around it: values and all gradients within 1e-4."""
    skip_unless_it_runs(backend, "fft_attention")
    numbers = golden(f"fft_attention_p{window}.npz")
    shapes = {k.removeprefix("grad/"): tuple(t.shape) for k, t in numbers.items() if "/" in k}
    weights = {name: t.requires_grad_() for name, t in filled(shapes).items()}
    x = numbers["x"].requires_grad_()
    rank = x.shape[1]

    def depthwise(t: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(
            t,
            weights[f"{name}.weight"],
            weights[f"{name}.bias"],
            padding=padding,
            groups=t.shape[1],
        )

    q = depthwise(F.conv2d(x, weights["q.weight"]), "q_dwconv", 1)
    kv = depthwise(F.conv2d(x, weights["kv.weight"]), "kv_dwconv", 3)
    k, v = kv.split(rank, dim=1)
    norm = weights["norm.body.weight"], weights["norm.body.bias"]
    mixed = fft_attention(q, k, v, *norm, window, backend=backend)
    y = F.conv2d(mixed, weights["proj_out.weight"], weights["proj_out.bias"])
    grads = torch.autograd.grad(y, [x, *weights.values()], numbers["dy"])
    keys = ["y", "dx", *(f"grad/{name}" for name in weights)]
    for key, value in zip(keys, [y, *grads], strict=True):
        target = numbers[key]
        assert (value - target).abs().max() <= 1e-4 * target.abs().max(), key


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(40), deadline=None)
@given(
    batch=st.integers(0, 2),
    channels=sizes(35),
    height=sizes(40),
    width=sizes(70),
    window=st.sampled_from([4, 8, 16, 32]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]),
    grad_layout=st.sampled_from(["contiguous", "channels_last", "sliced_last", "expanded"]),
)
def test_any_shape(
    backend: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    window: int,
    layout: str,
    grad_layout: str,
) -> None:
    skip_unless_it_runs(backend, "fft_attention")
    torch.manual_seed(height * 71 + width)
    shape = batch, channels, height, width
    tensors = [*inputs(shape, layout)[:3], torch.randn(channels), torch.randn(channels)]
    (grad,) = activations(1, shape, grad_layout)
    assert_close_to_float64(
        backend,
        lambda runs, *leaves: fft_attention(*leaves, window, eps=1.0, backend=runs),
        tensors,
        grad,
    )


MEASURE = """
import sys, torch
from moce_kernels import fft_attention
from moceir import machine
def run(side, window, backward):
    shape = 1, 48, side, side
    *tensors, grad = (
        torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(4)
    )
    tensors += [torch.ones(48), torch.zeros(48)]
    for t in tensors:
        t.requires_grad_(backward)
    peak = machine.Peak(torch.device("cpu"))
    before = machine._fields(machine._OWN_STATUS)["VmRSS"]
    out = fft_attention(*tensors, window, backend="cpu")
    results = [out, *(torch.autograd.grad(out, tensors, grad) if backward else ())]
    returned = sum(t.numel() * t.element_size() for t in results)
    return peak.bytes() - before - returned, out.numel() * out.element_size()
for backward in (False, True):
    for window in (4, 32):
        run(64, window, backward)
        # Larger than the freed outputs that are kept, which would count as there before.
        print(window, backward, *run(640, window, backward))
"""


@pytest.mark.skipif(not machine._OWN_STATUS.exists(), reason="no /proc to measure with")
def test_extra_memory_is_at_most_the_output_s() -> None:
    """Beyond the inputs and what is returned: plain PyTorch takes three times as much and more."""
    skip_unless_it_runs("cpu", "fft_attention")
    process = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    lines = process.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        extra, output = map(int, line.split()[2:])
        # Far below zero would mean that the peak missed what is returned.
        assert -output / 2 < extra <= output, line


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_keeps_the_layout_of_q(layout: str) -> None:
    skip_unless_it_runs("cpu", "fft_attention")
    tensors = inputs((2, 5, 9, 11), layout)
    out = fft_attention(*tensors, 4, backend="cpu")
    assert out.stride() == tensors[0].stride()


def test_scales_of_q_and_k_do_not_mix() -> None:
    """A tiny q beside a large k keeps its own precision: LayerNorm undoes the scale."""
    skip_unless_it_runs("cpu", "fft_attention")
    q, k, v, weight, bias = inputs((1, 8, 16, 16))
    exact = fft_attention(q.double(), k.double(), v.double(), weight, bias, 16, eps=1e-30)
    ours = fft_attention(q * 1e-6, k * 1e3, v, weight, bias, 16, eps=1e-30, backend="cpu")
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4)


def test_autocast() -> None:
    tensors = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fft_attention(*tensors, 4)
        double = fft_attention(*(t.double() for t in tensors[:3]), *tensors[3:], 4)
    assert out.dtype == torch.bfloat16
    assert double.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"window": 5}, ValueError, "window must be 4, 8, 16 or 32, not 5"),
        ({"eps": 0.0}, ValueError, "eps must be positive"),
        ({"q": torch.zeros(4, 6, 6)}, ValueError, r"q must be \(B, C, H, W\)"),
        ({"k": torch.zeros(1, 4, 6, 5)}, ValueError, "k must have q's shape"),
        ({"v": torch.zeros(1, 4, 6, 6).double()}, ValueError, "v must have q's dtype"),
        ({"v": torch.zeros(1, 4, 6, 6, device="meta")}, ValueError, "v must have q's device"),
        ({"q": torch.zeros(1, 4, 6, 6).long()}, TypeError, "q must be float32"),
        ({"weight": torch.ones(5)}, ValueError, r"weight must have shape \(4,\), not \(5,\)"),
        ({"bias": torch.ones(4, dtype=torch.int32)}, TypeError, "bias must be float32"),
        ({"weight": torch.ones(4, device="meta")}, ValueError, "weight is on meta"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    names = ("q", "k", "v", "weight", "bias")
    arguments = {**dict(zip(names, inputs(), strict=True)), "window": 4, **change}
    with pytest.raises(error, match=f"fft_attention: {message}"):
        fft_attention(**arguments)  # type: ignore[arg-type]
