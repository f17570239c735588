"""MDTA: the projection's two launches, then those of the attention over channels."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.triton_kernels import channel_attention, projected_depthwise_conv
from moce_kernels.triton_kernels._common import implement
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
    query = projected_depthwise_conv.forward(
        x, qkv, qkv_bias, depthwise, depthwise_bias, norm, eps, parts
    )
    return channel_attention.forward(query, None, temperature, weight, bias, residual)
