"""Triton kernel of routing_plan: top-k, gates, order and offsets in one launch.

One program walks over (B, n) logits twice. The first walk ranks the experts of each image, writes
the chosen ones and their softmax, and counts; the second places each slot after the earlier ones of
its expert (a counting sort, so it is stable). It moves 4 B n + 28 B k bytes, a few kilobytes: its
time is that of one launch and of B / 32 dependent steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moce_kernels.triton_kernels._common import implement


@triton.jit
def _routing_plan(
    logits,  # (B, n)
    index,  # (B, k): experts
    gate,  # (B, k)
    order,  # (B k,): slots
    offsets,  # (n + 1,)
    stride_image,  # of logits
    stride_expert,
    batch,
    experts,
    top_k,
    ROWS: tl.constexpr,  # images or slots at a time
    EXPERTS: tl.constexpr,  # a power of two, at least `experts`
):
    expert = tl.arange(0, EXPERTS)
    exists = expert < experts
    count = tl.zeros((EXPERTS,), tl.int32)

    for start in range(0, batch, ROWS):
        image = start + tl.arange(0, ROWS)
        inside = image < batch
        place = image[:, None].to(tl.int64) * stride_image + expert[None, :] * stride_expert
        mask = inside[:, None] & exists[None, :]
        x = tl.load(logits + place, mask=mask, other=float("-inf"))
        # Integers in the order of the floats; NaN before all, as in PyTorch's sort; 0 equal to -0.
        bits = (x + 0.0).to(tl.int32, bitcast=True)
        key = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
        key = tl.where(x == x, key, 0x7FFFFFFF)
        left = tl.broadcast_to(exists[None, :], (ROWS, EXPERTS))
        highest = tl.max(x, axis=1)  # any value keeps exp in range; NaN spreads through the sum
        score = tl.where(exists[None, :], tl.exp(x - highest[:, None]), 0.0)
        total = tl.sum(score, axis=1)
        for j in range(top_k):
            best = tl.max(tl.where(left, key, -0x80000000), axis=1)
            candidate = left & (key == best[:, None])
            chosen = tl.min(tl.where(candidate, expert[None, :], EXPERTS), axis=1)
            here = expert[None, :] == chosen[:, None]
            left = left & ~here
            slot = image.to(tl.int64) * top_k + j
            value = tl.sum(tl.where(here, score, 0.0), axis=1) / total
            tl.store(index + slot, chosen.to(tl.int64), mask=inside)
            tl.store(gate + slot, value, mask=inside)
            count += tl.sum((here & inside[:, None]).to(tl.int32), axis=0)

    end = tl.cumsum(count, axis=0)
    tl.store(offsets + expert, (end - count).to(tl.int64), mask=exists)
    tl.store(offsets + experts, batch * top_k)
    tl.debug_barrier()  # `index` was written by other threads

    following = end - count  # where the next slot of each expert goes
    for start in range(0, batch * top_k, ROWS):
        slot = start + tl.arange(0, ROWS)
        inside = slot < batch * top_k
        chosen = tl.load(index + slot, mask=inside, other=-1).to(tl.int32)
        here = (expert[None, :] == chosen[:, None]).to(tl.int32)
        position = following[None, :] + tl.cumsum(here, axis=0) - here
        tl.store(order + tl.sum(position * here, axis=1), slot.to(tl.int64), mask=inside)
        following += tl.sum(here, axis=0)


@implement("routing_plan")
def forward(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, experts = logits.shape
    index = torch.empty((batch, top_k), dtype=torch.int64, device=logits.device)
    gate = logits.new_empty((batch, top_k))
    order, offsets = index.new_empty((batch * top_k,)), index.new_empty((experts + 1,))
    _routing_plan[(1,)](
        logits=logits,
        index=index,
        gate=gate,
        order=order,
        offsets=offsets,
        stride_image=logits.stride(0),
        stride_expert=logits.stride(1),
        batch=batch,
        experts=experts,
        top_k=top_k,
        ROWS=32,
        EXPERTS=triton.next_power_of_2(experts),
    )
    return gate, index, order, offsets
