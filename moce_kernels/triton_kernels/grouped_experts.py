"""Triton kernels of grouped_experts: the experts of a layer on the images routed to them.

For the slot of image b and its j-th expert e, of rank r:

    h = P0 x_b,  q = dw3x3(Wq h),  k, v = dw7x7(Wkv h),  a = LayerNorm(q (*) k) v,
    z = (Wo a + bias) SiLU(P1 shared_b);    out_b = sum_j gate (P2 z + x_b)

Five launches: the projections of q, k and v, two depthwise convolutions, the window convolution,
and all that follows. A program reads its slot's expert from the plan on the device, and leaves at
once where its channels lie beyond the rank; but for the last launch slots are taken in the order of
their experts, so that neighbours use the same weights. Nothing is gathered or read back, and the
number of launches is the same for every batch. Between them the r channels of h and 3 r of q, k and
v of each slot go through memory in the activations' dtype, the convolution in float32: about
4 C + 18 r elements for each pixel of a slot, bound by memory for 16-bit activations. Multiply-adds
for each pixel: 3 r C + 4 r^2 + 107 r + 6 r TILE (see fft_attention).

A program of the last launch has an image instead of a slot, and adds up what its experts give,
which is why no atomic sum is needed and the result is always the same.

Backward recomputes every step. Gradients of weights are sums over the slots of an expert: programs
share the tiles of each expert, and what they found is added up after, in a fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moce_kernels.expert_weights import ExpertWeights
from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels._common import Plan, implement
from moce_kernels.triton_kernels._expert_layer import Layer, LayerBackward, Weight
from moce_kernels.triton_kernels._norm_gate import norm_gate_backward
from moce_kernels.triton_kernels._parts import TRITON, Parts


def _plan(
    index: Tensor, order: Tensor, offsets: Tensor, ranks: list[int], windows: list[int]
) -> Plan:
    return Plan(
        index.contiguous(), order.contiguous(), offsets.contiguous(), tuple(ranks), tuple(windows)
    )


@implement("grouped_experts")
def forward(
    x: Tensor,
    shared: Tensor,
    index: Tensor,
    gate: Tensor,
    order: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    ranks: list[int],
    windows: list[int],
    eps: float,
    parts: Parts = TRITON,
) -> Tensor:
    if x.numel() == 0:
        return new_like(x)
    plan = _plan(index, order, offsets, ranks, windows)
    layer = Layer(x, shared, gate, plan, ExpertWeights(*weights), eps, parts)
    # Activations are let go of as soon as they were used: a network's memory is greatest here.
    h, q, kv = layer.projected()
    del h
    q = layer.convolved_query(q)
    kv = layer.convolved_key_value(kv)
    mixed = layer.mixed(q, kv)
    del q
    return layer.finished(mixed, kv, new_like(x))


@implement("grouped_experts_backward")
def backward(
    grad: Tensor,
    x: Tensor,
    shared: Tensor,
    index: Tensor,
    gate: Tensor,
    order: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    ranks: list[int],
    windows: list[int],
    eps: float,
    parts: Parts = TRITON,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    dx, dshared = new_like(x), new_like(shared)
    if x.numel() == 0:
        return dx, dshared, torch.zeros_like(gate), [torch.zeros_like(w) for w in weights]
    w = ExpertWeights(*weights)
    plan = _plan(index, order, offsets, ranks, windows)
    layer = LayerBackward(x, shared, gate, plan, w, eps, parts)
    rank = layer.rank

    h, before_q, before_kv = layer.projected()
    q, kv = layer.convolved_query(before_q), layer.convolved_key_value(before_kv)
    mixed = layer.mixed(q, kv)
    attention = layer.attention(mixed, kv)

    # From out to the attention.
    z, d_attention, d_modulation, of_gate = layer.modulated_backward(attention, grad)
    layer.sum_weight_gradients(
        Weight(z, grad, "out_proj", wide=True, gated=True),
        Weight(d_modulation, shared, "mod_proj", wide=True),
        Weight(d_attention, attention, "attn_out", bias=True),
    )
    layer.sum_of_experts(d_modulation, w.mod_proj, dshared)

    # Through the attention, then the depthwise convolutions.
    d = layer.project_back(d_attention, w.attn_out, attention)
    dq, dkv = torch.empty_like(q), torch.empty_like(kv)
    of_norm = norm_gate_backward(
        d, mixed, kv, w.norm, w.norm_bias, dkv, eps=eps, rank=rank, plan=plan
    )
    parts.window_correlate(mixed, q, kv, plan, dq, dkv)
    of_query_dw = parts.grouped_depthwise_weight_sums(dq, before_q, plan, 1, 3)
    of_key_value_dw = parts.grouped_depthwise_weight_sums(dkv, before_kv, plan, 2, 7)
    parts.grouped_depthwise_conv(dq, w.query_dw, None, plan, 1, True, before_q)
    parts.grouped_depthwise_conv(dkv, w.key_value_dw, None, plan, 2, True, before_kv)

    # From there to x.
    dh = layer.project_back(before_q, w.query, d, before_kv, w.key_value)
    layer.sum_weight_gradients(
        Weight(before_q, h, "query"),
        Weight(before_kv, h, "key_value", times=2),
        Weight(dh, x, "in_proj", wide=True),
    )
    layer.sum_of_experts(dh, w.in_proj, dx, grad)

    dgate, dweights = layer.gradients(of_gate, of_norm.flatten(1), of_query_dw, of_key_value_dw)
    return dx, dshared, dgate, list(dweights)
