"""Fused operators of all-in-one image restoration with complexity experts.

What holds for all operators, where an operator's own description says nothing else:

Activations are (B, C, H, W), of any height and width and with any strides: channels-last (the
fastest), contiguous, sliced or expanded; B may be 0. They share a device and a dtype: float32,
bfloat16 or float16, on the reference backend also float64. Under autocast they are cast to its
dtype. Parameters may have any of these dtypes, whatever that of the activations.

Results have the activations' dtype. The kernels compute sums, statistics and spectra in float32,
keep parameters as exact as they are given, and return the same bits every time. In memory their
results are channels-last where the channels of the first activation are adjacent, else contiguous.

The argument ``backend`` is "reference", "cpu", "triton" or "cuda": that one runs, or the call
raises. By default ``use_backends`` decides, else the environment's MOCE_KERNELS_BACKEND, else it is
the fastest that can run.

Raised are ValueError and TypeError, which name the operator and the argument, for shapes, dtypes,
devices and options that do not fit; ``backends.BackendUnavailableError``, with the reason, for a
backend that cannot run; NotImplementedError for derivatives that the kernels do not have (see
docs/kernels.md).
"""

from moce_kernels import ops, registry
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

# An operator counts as soon as its file is there.
registry.import_all(ops.__path__, ops.__name__)
