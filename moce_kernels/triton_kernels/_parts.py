"""The parts of composed operators that exist twice: in Triton, and in the CUDA library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moce_kernels.triton_kernels import depthwise_conv, fft_attention, gated_depthwise_conv
from moce_kernels.triton_kernels._common import Plan, scratch


class Parts(NamedTuple):
    depthwise_conv: Callable[..., Tensor]  # as the raw operators of these names
    gated_depthwise_conv: Callable[..., Tensor]
    # q (*) k by plan, float32 (slots, greatest rank, H, W), of (q, kv, plan); and its gradients, of
    # (d, q, kv, plan, dq, dkv), into the last two.
    window_conv: Callable[[Tensor, Tensor, Plan], Tensor]
    window_correlate: Callable[..., None]
    # Convolutions by plan, of (x, weight, bias, plan, times, flip, out), into the last; and parts
    # of the sums that the gradients of weight and bias are, (parts, channels (K K + 1)), of (grad,
    # x, plan, times, kernel).
    grouped_depthwise_conv: Callable[..., None]
    grouped_depthwise_weight_sums: Callable[..., Tensor]
    # All of gated_feedforward and of projected_depthwise_conv, and the first pass of
    # transposed_attention, for what ``ops.fused_feedforward`` says they take; Triton has no such
    # kernels.
    fused_feedforward: Callable[..., Tensor] | None = None
    fused_projection: Callable[..., Tensor] | None = None
    fused_attention_sums: Callable[..., tuple[Tensor, Tensor]] | None = None


def _window_conv(q: Tensor, kv: Tensor, plan: Plan) -> Tensor:
    slots, _, height, width = q.shape
    out = scratch(q, (slots, plan.widest, height, width), torch.float32)
    fft_attention.window_conv(q, kv, out, rank=plan.widest, plan=plan)
    return out


def _window_correlate(
    d: Tensor, q: Tensor, kv: Tensor, plan: Plan, dq: Tensor, dkv: Tensor
) -> None:
    fft_attention.window_correlate(d, q, kv, dq, dkv, rank=plan.widest, plan=plan)


def _grouped_depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, times: int, flip: bool, out: Tensor
) -> None:
    depthwise_conv.depthwise(
        x, weight, bias, out, rank=plan.widest, plan=plan, kernel=weight.shape[-1], times=times,
        flip=flip,
    )  # fmt: skip


def _grouped_depthwise_weight_sums(
    grad: Tensor, x: Tensor, plan: Plan, times: int, kernel: int
) -> Tensor:
    return depthwise_conv.depthwise_weight_sums(
        grad, x, rank=plan.widest, plan=plan, kernel=kernel, times=times
    )


TRITON = Parts(
    depthwise_conv.forward,
    gated_depthwise_conv.forward,
    _window_conv,
    _window_correlate,
    _grouped_depthwise_conv,
    _grouped_depthwise_weight_sums,
)


def of_cuda_library(compiled: Any) -> Parts:
    """Those of the operators of the namespace ``compiled``."""

    def window_conv(q: Tensor, kv: Tensor, plan: Plan) -> Tensor:
        return compiled.grouped_window_conv(
            q, kv, plan.order, plan.offsets, plan.ranks, plan.windows
        )

    def window_correlate(
        d: Tensor, q: Tensor, kv: Tensor, plan: Plan, dq: Tensor, dkv: Tensor
    ) -> None:
        compiled.grouped_window_conv_backward(
            d, q, kv, plan.order, plan.offsets, plan.ranks, plan.windows, dq, dkv
        )

    def grouped_depthwise_conv(
        x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, times: int, flip: bool,
        out: Tensor,
    ) -> None:  # fmt: skip
        compiled.grouped_depthwise_conv(x, weight, bias, plan.expert, plan.ranks, times, flip, out)

    def grouped_depthwise_weight_sums(
        grad: Tensor, x: Tensor, plan: Plan, times: int, kernel: int
    ) -> Tensor:
        total = compiled.grouped_depthwise_conv_backward_weight(
            grad, x, plan.order, plan.offsets, plan.ranks, times, kernel
        )
        return total[None]

    return Parts(
        compiled.depthwise_conv,
        compiled.gated_depthwise_conv,
        window_conv,
        window_correlate,
        grouped_depthwise_conv,
        grouped_depthwise_weight_sums,
        compiled.fused_feedforward,
        compiled.fused_projection,
        compiled.fused_attention_sums,
    )
