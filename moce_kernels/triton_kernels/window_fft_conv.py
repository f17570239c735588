"""Circular convolution of windows in Triton: the kernels of fft_attention without what follows.

q and k are read once and the result is written once, 3 elements for each of its elements; backward
5. See fft_attention.py and _hartley.py.
"""

from __future__ import annotations

from torch import Tensor

from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels._common import implement, no_plan
from moce_kernels.triton_kernels.fft_attention import window_conv, window_correlate


@implement("window_fft_conv")
def forward(q: Tensor, k: Tensor, window: int) -> Tensor:
    out = new_like(q)
    if out.numel():
        window_conv(q, k, out, rank=q.shape[1], plan=no_plan(window))
    return out


@implement("window_fft_conv_backward")
def backward(grad: Tensor, q: Tensor, k: Tensor, window: int) -> tuple[Tensor, Tensor]:
    dq, dk = new_like(q), new_like(k)
    if q.numel():
        window_correlate(grad, q, k, dq, dk, rank=q.shape[1], plan=no_plan(window))
    return dq, dk
