"""Fused operators of all-in-one image restoration with complexity experts."""

from moce_kernels.backends import use_backends
from moce_kernels.expert_weights import ExpertWeights, expert_weight_shapes
from moce_kernels.ops.channel_attention import channel_attention
from moce_kernels.ops.depthwise_conv import depthwise_conv
from moce_kernels.ops.fft_attention import fft_attention
from moce_kernels.ops.gated_depthwise_conv import gated_depthwise_conv
from moce_kernels.ops.gated_feedforward import gated_feedforward
from moce_kernels.ops.grouped_experts import grouped_experts
from moce_kernels.ops.pointwise_conv import pointwise_conv
from moce_kernels.ops.projected_depthwise_conv import projected_depthwise_conv
from moce_kernels.ops.routing_plan import RoutingPlan, routing_plan
from moce_kernels.ops.transposed_attention import transposed_attention
from moce_kernels.ops.window_fft_conv import window_fft_conv

__all__ = [
    "ExpertWeights",
    "RoutingPlan",
    "channel_attention",
    "depthwise_conv",
    "expert_weight_shapes",
    "fft_attention",
    "gated_depthwise_conv",
    "gated_feedforward",
    "grouped_experts",
    "pointwise_conv",
    "projected_depthwise_conv",
    "routing_plan",
    "transposed_attention",
    "use_backends",
    "window_fft_conv",
]
