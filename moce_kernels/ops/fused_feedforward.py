"""Kernels of the CUDA library that compute all of ``gated_feedforward``, all of
``projected_depthwise_conv``, and the first pass of ``transposed_attention``, for the inputs that
they take. Raw operators alone, without gradients of their own.

The first two have the arguments of the raw operators of these names, and then ``tf32``: whether
float32 is multiplied in one product of TF32 and not in three. fused_attention_sums gives v
(B, C, H, W), and in float32 (B, parts, C c + 2 C) what adds up to q k^T of heads of c channels and
to the squared lengths of q's and of k's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels.ops import _inputs, _library


def takes(x: Tensor, products: str) -> bool:
    """Whether ``fused_feedforward`` takes these activations, with any number of hidden channels:
    channels-last, and few enough channels that its tile fits every GPU's shared memory.
    ``products``: how those of float32 are computed, of which "ieee" needs other kernels."""
    if x.stride(1) != 1:
        return False
    if x.dtype == torch.float32:
        return x.shape[1] in (16, 32, 48, 64) and products != "ieee"
    return x.shape[1] in (16, 32, 48, 64, 96, 128) and x.dtype in (torch.bfloat16, torch.float16)


def takes_projection(x: Tensor, weight: Tensor, depthwise: Tensor, products: str) -> bool:
    """The same of ``fused_projection``, which writes pairs of channels."""
    return takes(x, products) and weight.shape[0] % 2 == 0 and depthwise.shape[-1] == 3


def takes_attention(x: Tensor, heads: int, channels: int) -> bool:
    """The same of ``fused_attention_sums``, with so many channels of q: 16-bit elements, whose
    heads fill matrices of tensor cores."""
    return (
        x.dtype != torch.float32
        and takes(x, "ieee")
        and x.shape[1] == channels
        and channels % (16 * heads) == 0
        and (channels <= 64 or channels // heads <= 48)
        and (channels < 128 or x.dtype == torch.bfloat16)
    )


def attention_tiles(x: Tensor) -> int:
    """How many tiles of an image ``fused_attention_sums`` has, as csrc/cuda has them."""
    channels, height, width = x.shape[1:]
    rows = 4 if channels > 64 else 8 if channels > 32 else 10 if channels > 16 else 12
    return -(-height // rows) * -(-width // 16)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x)


def _fake_projection(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x, weight.shape[0])


torch.library.define(
    f"{_library.COMPILED}::fused_feedforward",
    "(Tensor x, Tensor project_in, Tensor? in_bias, Tensor depthwise, Tensor? depthwise_bias,"
    " Tensor project_out, Tensor? out_bias, bool norm, float eps, bool tf32) -> Tensor",
)
torch.library.register_fake(f"{_library.COMPILED}::fused_feedforward", _fake)
torch.library.define(
    f"{_library.COMPILED}::fused_projection",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor depthwise, Tensor? depthwise_bias, bool norm,"
    " float eps, bool tf32) -> Tensor",
)
torch.library.register_fake(f"{_library.COMPILED}::fused_projection", _fake_projection)


def _fake_attention_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    heads: int,
    parts: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape[:2]
    sums = (batch, parts, channels * (channels // heads + 2))
    return _inputs.new_like(x), x.new_empty(sums, dtype=torch.float32)


torch.library.define(
    f"{_library.COMPILED}::fused_attention_sums",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor depthwise, Tensor? depthwise_bias, int heads,"
    " int parts, bool norm, float eps) -> (Tensor v, Tensor sums)",
)
torch.library.register_fake(f"{_library.COMPILED}::fused_attention_sums", _fake_attention_sums)
