"""What is particular to window_fft_conv."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moce_kernels import fft_attention, window_fft_conv
from tests.ops.spec import DTYPES, activations, examples, sizes, skip_unless_it_runs

LAYOUTS = ["contiguous", "channels_last", "sliced", "sliced_last", "expanded"]
# Of the largest value that the sums could have: a few roundings, or that of the result.
LIMITS = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def forward_and_backward(
    backend: str, window: int, q: Tensor, k: Tensor, grad: Tensor
) -> list[Tensor]:
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    out = window_fft_conv(q, k, window, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, (q, k), grad)]


def test_reference_is_a_circular_convolution() -> None:
    """Against the definition, term by term, on one window."""
    q, k = torch.randn(2, 1, 1, 4, 4, dtype=torch.float64)
    direct = torch.zeros_like(q)
    for y in range(4):
        for x in range(4):
            direct += q[..., y, x, None, None] * torch.roll(k, (y, x), (2, 3))
    torch.testing.assert_close(window_fft_conv(q, k, 4), direct)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@settings(max_examples=examples(60), deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=sizes(35),
    height=sizes(40),
    width=sizes(70),
    window=st.sampled_from([4, 8, 16, 32]),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=3, max_size=3),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(
    backend: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    window: int,
    layouts: list[str],
    dtype: torch.dtype,
) -> None:
    """Values and gradients; q, k and the upstream gradient lie in memory as they like."""
    skip_unless_it_runs(backend, "window_fft_conv")
    torch.manual_seed(height * 71 + width)
    shape = (batch, channels, height, width)
    tensors = [activations(1, shape, layout)[0].to(dtype) for layout in layouts]
    ours = forward_and_backward(backend, window, *tensors)
    exact = forward_and_backward("reference", window, *(t.double() for t in tensors))
    scale = forward_and_backward("reference", window, *(t.double().abs() for t in tensors))
    for a, b, largest in zip(ours, exact, scale, strict=True):
        assert (a - b).abs().max() <= LIMITS[dtype] * largest.max()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_keeps_the_layout_of_q(layout: str) -> None:
    skip_unless_it_runs("cpu", "window_fft_conv")
    q, k = activations(2, (2, 5, 9, 11), layout)
    assert window_fft_conv(q, k, 4, backend="cpu").stride() == q.stride()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_fft_attention_normalises_and_multiplies_it(backend: str) -> None:
    skip_unless_it_runs(backend, "window_fft_conv")
    q, k, v = activations(3, (2, 6, 19, 21), "channels_last")
    mixed = window_fft_conv(q, k, 8, backend=backend)
    normed = torch.nn.functional.layer_norm(mixed.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)
    attended = fft_attention(q, k, v, torch.ones(6), torch.zeros(6), 8, backend=backend)
    torch.testing.assert_close(attended, normed * v, rtol=1e-4, atol=1e-4)


def test_neighbours_do_not_leak() -> None:
    """A value that is not finite stays within its window and channel."""
    skip_unless_it_runs("cpu", "window_fft_conv")
    for layout in ("contiguous", "channels_last"):
        q, k = activations(2, (1, 20, 16, 24), layout)
        q[0, 7, 5, 9] = float("nan")
        out = window_fft_conv(q, k, 8, backend="cpu")
        inside = torch.zeros_like(out, dtype=torch.bool)
        inside[0, 7, 0:8, 8:16] = True
        assert torch.equal(out.isnan(), inside)


def test_autocast() -> None:
    q, k = activations(2, (1, 4, 6, 6), "contiguous")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert window_fft_conv(q, k, 4).dtype == torch.bfloat16
        assert window_fft_conv(q.double(), k.double(), 4).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"window": 5}, ValueError, "window must be 4, 8, 16 or 32, not 5"),
        ({"q": torch.zeros(4, 6, 6)}, ValueError, r"q must be \(B, C, H, W\)"),
        ({"k": torch.zeros(1, 4, 6, 5)}, ValueError, "k must have q's shape"),
        ({"k": torch.zeros(1, 4, 6, 6).half()}, ValueError, "k must have q's dtype"),
        ({"k": torch.zeros(1, 4, 6, 6, device="meta")}, ValueError, "k must have q's device"),
        ({"q": torch.zeros(1, 4, 6, 6).long()}, TypeError, "q must be float32"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    q, k = activations(2, (1, 4, 6, 6), "contiguous")
    with pytest.raises(error, match=f"window_fft_conv: {message}"):
        window_fft_conv(**{"q": q, "k": k, "window": 4, **change})  # type: ignore[arg-type]
