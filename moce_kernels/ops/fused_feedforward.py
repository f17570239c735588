"""A GDFN in one kernel: what ``gated_feedforward`` is in the CUDA library where the kernel takes
its input. A raw operator alone, without a gradient of its own; its arguments are those of the raw
operator ``gated_feedforward``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels.ops import _inputs, _library


def takes(x: Tensor) -> bool:
    """Whether the kernel takes these activations, with any number of hidden channels: of 16 bits,
    channels-last, and few enough channels that its tile fits every GPU's shared memory."""
    whole = x.shape[1] in (16, 32, 48, 64)
    return whole and x.dtype in (torch.bfloat16, torch.float16) and x.stride(1) == 1


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _inputs.new_like(x)


torch.library.define(
    f"{_library.COMPILED}::fused_feedforward",
    "(Tensor x, Tensor project_in, Tensor? in_bias, Tensor depthwise, Tensor? depthwise_bias,"
    " Tensor project_out, Tensor? out_bias, bool norm, float eps) -> Tensor",
)
torch.library.register_fake(f"{_library.COMPILED}::fused_feedforward", _fake)
