"""The 1x1 and the depthwise convolution, one launch each; or in the CUDA library's one kernel,
where it takes x."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.ops import fused_feedforward
from moce_kernels.triton_kernels import pointwise_conv
from moce_kernels.triton_kernels._common import float32_precision, implement
from moce_kernels.triton_kernels._parts import TRITON, Parts


@implement("projected_depthwise_conv")
def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    norm: bool,
    eps: float,
    parts: Parts = TRITON,
) -> Tensor:
    fused, products = parts.fused_projection, float32_precision()
    if fused is not None and fused_feedforward.takes_projection(x, weight, depthwise, products):
        parameters = weight, bias, depthwise, depthwise_bias
        return fused(x, *parameters, norm, eps, products == "tf32")
    projected = pointwise_conv.forward(x, weight, bias, None, norm, eps)
    return parts.depthwise_conv(projected, depthwise, depthwise_bias, False)
