"""The 1x1 and the depthwise convolution, one launch each."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.triton_kernels import depthwise_conv, pointwise_conv
from moce_kernels.triton_kernels._common import implement


@implement("projected_depthwise_conv")
def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    norm: bool,
    eps: float,
) -> Tensor:
    projected = pointwise_conv.forward(x, weight, bias, None, norm, eps)
    return depthwise_conv.forward(projected, depthwise, depthwise_bias)
