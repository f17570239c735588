"""A GDFN in three launches: norm and 1x1, depthwise and gate, 1x1 and residual; or in the CUDA
library's one kernel, where it takes x."""

from __future__ import annotations

from torch import Tensor

from moce_kernels.ops import fused_feedforward
from moce_kernels.ops._inputs import converted
from moce_kernels.triton_kernels import pointwise_conv
from moce_kernels.triton_kernels._common import float32_precision, implement
from moce_kernels.triton_kernels._parts import TRITON, Parts


@implement("gated_feedforward")
def forward(
    x: Tensor,
    project_in: Tensor,
    in_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor | None,
    project_out: Tensor,
    out_bias: Tensor | None,
    norm: bool,
    eps: float,
    parts: Parts = TRITON,
) -> Tensor:
    fused, products = parts.fused_feedforward, float32_precision()
    if fused is not None and fused_feedforward.takes(x, products):
        parameters = project_in, in_bias, depthwise, depthwise_bias, project_out, out_bias
        return fused(x, *parameters, norm, eps, products == "tf32")
    project_in, project_out = converted(x.dtype, project_in, project_out)
    hidden = pointwise_conv.forward(x, project_in, in_bias, None, norm, eps)
    gated = parts.gated_depthwise_conv(hidden, depthwise, depthwise_bias)
    del hidden
    return pointwise_conv.forward(gated, project_out, out_bias, x, False, eps)
