"""MDTA: the projection's two launches, then those of the attention over channels; or the first
pass in the CUDA library's one kernel, where it takes x."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.ops import fused_feedforward
from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels import channel_attention, projected_depthwise_conv
from moce_kernels.triton_kernels._common import blocks, implement, splits
from moce_kernels.triton_kernels._parts import TRITON, Parts


@implement("transposed_attention")
def forward(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    temperature: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: bool,
    eps: float,
    parts: Parts = TRITON,
) -> tuple[Tensor, Tensor, Tensor]:
    fused, (outer, channels), heads = parts.fused_attention_sums, weight.shape, len(temperature)
    if fused is not None and x.numel() and fused_feedforward.takes_attention(x, heads, channels):
        # Two blocks on each of an H100's multiprocessors share the images' tiles. Where that makes
        # too many sums, they are added up in a launch of its own.
        count = splits(fused_feedforward.attention_tiles(x), max(1, 264 // len(x)))
        head, few = channels // heads, count
        if count * head * (head + 2) > channel_attention.CELLS:
            together = blocks(count, channel_attention.MANY)
            few = count // together
            count = few * together
        v, sums = fused(x, qkv, qkv_bias, depthwise, depthwise_bias, heads, count, norm, eps)
        if few < count:
            sums = channel_attention.added_up(sums, few)
        return channel_attention.attend(
            v, sums, temperature, weight, bias, residual, new_like(x, outer)
        )
    query = projected_depthwise_conv.forward(
        x, qkv, qkv_bias, depthwise, depthwise_bias, norm, eps, parts
    )
    return channel_attention.forward(query, None, temperature, weight, bias, residual)
