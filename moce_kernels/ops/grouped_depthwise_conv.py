"""The depthwise convolutions of a layer of experts, slot by slot of a routing plan: steps of
``grouped_experts`` in the CUDA library. Raw operators alone, without gradients of their own.

Each slot is convolved in ``times * rank`` channels, of its expert's rank. Weights are those of all
experts, one after another. Channels beyond a slot's are not written, and what they hold has no
effect. No number is read back from the device.

grouped_depthwise_conv: x and out, which it writes, are (slots, at least ``times`` the largest rank,
H, W), of one dtype and any strides; weight (all channels, K, K) and bias float32; index the expert
of each slot. ``flip`` as in depthwise_conv.
grouped_depthwise_conv_backward_weight: grad is the gradient of out; order and offsets are a plan's.
Returns the gradients of weight and then of bias, in a row, (channels (K K + 1),); zeros for experts
without slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moce_kernels.ops import _library


def _fake_weight(
    grad: Tensor,
    x: Tensor,
    order: Tensor,
    offsets: Tensor,
    ranks: list[int],
    times: int,
    kernel: int,
) -> Tensor:
    size = times * sum(ranks) * (kernel * kernel + 1)
    return x.new_empty((size,), dtype=torch.float32)


torch.library.define(
    f"{_library.COMPILED}::grouped_depthwise_conv",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor index, int[] ranks, int times, bool flip,"
    " Tensor(a!) out) -> ()",
)
torch.library.register_fake(f"{_library.COMPILED}::grouped_depthwise_conv", lambda *arguments: None)
torch.library.define(
    f"{_library.COMPILED}::grouped_depthwise_conv_backward_weight",
    "(Tensor grad, Tensor x, Tensor order, Tensor offsets, int[] ranks, int times, int kernel)"
    " -> Tensor",
)
torch.library.register_fake(
    f"{_library.COMPILED}::grouped_depthwise_conv_backward_weight", _fake_weight
)
