"""A layer of complexity experts on the images routed to them, defined in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moce_kernels.expert_weights import ExpertWeights
from moce_kernels.reference.fft_attention import fft_attention
from moce_kernels.reference.window_fft_conv import window_fft_conv, window_product_conv


def expert(
    x: Tensor,
    shared: Tensor,
    w: ExpertWeights,
    window: int,
    eps: float,
    convolve: Callable[[Tensor, Tensor, int], Tensor] = window_fft_conv,
) -> Tensor:
    """One expert of rank r: ``P2(FFT-WSA(P0 x) * SiLU(P1 shared)) + x`` (eq. 1 and 2).

    x, shared: (B, C, H, W); ``w``: the weights of this expert alone.
    """
    r = w.in_proj.shape[0]

    def conv1x1(t: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(t, weight[:, :, None, None], bias)

    def depthwise(t: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(t, weight[:, None], bias, padding=weight.shape[-1] // 2, groups=t.shape[1])

    h = conv1x1(x, w.in_proj)
    q = depthwise(conv1x1(h, w.query.view(r, r)), w.query_dw, w.query_dw_bias)
    kv = conv1x1(h, w.key_value.view(2 * r, r))
    k, v = depthwise(kv, w.key_value_dw, w.key_value_dw_bias).chunk(2, dim=1)
    h = fft_attention(q, k, v, w.norm, w.norm_bias, window, eps, convolve)
    h = conv1x1(h, w.attn_out.view(r, r), w.attn_out_bias)
    h = h * F.silu(conv1x1(shared, w.mod_proj))
    return conv1x1(h, w.out_proj.t()) + x


def grouped_experts(
    x: Tensor,
    shared: Tensor,
    index: Tensor,
    gate: Tensor,
    weights: ExpertWeights,
    ranks: Sequence[int],
    windows: Sequence[int],
    eps: float = 1e-5,
) -> Tensor:
    """``y_b = sum_j gate[b, j] * e_{expert[b, j]}(x_b, shared_b)``, as the operator has it."""
    out = torch.zeros_like(x)
    for e, (w, window) in enumerate(zip(weights.split(ranks), windows, strict=True)):
        image, choice = (index == e).nonzero(as_tuple=True)
        if image.numel():
            y = expert(x[image], shared[image], w, window, eps)
            out = out.index_add(
                0, image, (gate[image, choice][:, None, None, None] * y).to(x.dtype)
            )
    return out


def every_expert(
    x: Tensor,
    shared: Tensor,
    index: Tensor,
    gate: Tensor,
    weights: ExpertWeights,
    ranks: Sequence[int],
    windows: Sequence[int],
    eps: float = 1e-5,
) -> Tensor:
    """``grouped_experts`` in float32, with operations that do not depend on the route: every expert
    is computed, unchosen ones with a gate of zero, and convolutions are matrix products. This
    suits formats without sparse dispatch and Fourier transforms, such as ONNX."""
    out = torch.zeros_like(x)
    for e, (w, window) in enumerate(zip(weights.split(ranks), windows, strict=True)):
        gate_e = (gate * (index == e)).sum(dim=1)[:, None, None, None]
        out = out + gate_e * expert(x, shared, w, window, eps, window_product_conv)
    return out
