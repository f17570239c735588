"""The window convolution of a layer of experts, slot by slot of a routing plan: a step of
``grouped_experts`` in the CUDA library. Raw operators alone, without gradients of their own.

``mixed = q (*) k``, k being the first channels of kv, with the window of the slot's expert and in
as many channels as its rank. Channels beyond those are not written, and what they hold has no
effect. No number is read back from the device.

grouped_window_conv: q and kv are (slots, at least the largest rank, H, W), of one dtype and any
strides; order and offsets a plan's. Returns (slots, largest rank, H, W), float32, channels-last.
grouped_window_conv_backward: d is the gradient of mixed, float32; dq and dkv, which it writes, are
of q's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moce_kernels.ops import _library


def _fake(
    q: Tensor, kv: Tensor, order: Tensor, offsets: Tensor, ranks: list[int], windows: list[int]
) -> Tensor:
    slots, _, height, width = q.shape
    return torch.empty(
        (slots, max(ranks), height, width),
        dtype=torch.float32,
        device=q.device,
        memory_format=torch.channels_last,
    )


torch.library.define(
    f"{_library.COMPILED}::grouped_window_conv",
    "(Tensor q, Tensor kv, Tensor order, Tensor offsets, int[] ranks, int[] windows) -> Tensor",
)
torch.library.register_fake(f"{_library.COMPILED}::grouped_window_conv", _fake)
torch.library.define(
    f"{_library.COMPILED}::grouped_window_conv_backward",
    "(Tensor d, Tensor q, Tensor kv, Tensor order, Tensor offsets, int[] ranks, int[] windows,"
    " Tensor(a!) dq, Tensor(b!) dkv) -> ()",
)
torch.library.register_fake(
    f"{_library.COMPILED}::grouped_window_conv_backward", lambda *arguments: None
)
