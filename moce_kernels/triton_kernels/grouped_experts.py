"""Triton kernels of grouped_experts: the experts of a layer on the images routed to them.

For the slot of image b and its j-th expert e, of rank r:

    h = P0 x_b,  q = dw3x3(Wq h),  k, v = dw7x7(Wkv h),  a = LayerNorm(q (*) k) v,
    z = (Wo a + bias) SiLU(P1 shared_b);    out_b = sum_j gate (P2 z + x_b)

Each step is a launch over (slot, tile), or two: a program reads its slot's expert from the plan on
the device, takes the slots in the order of their experts, so that neighbours use the same weights,
and leaves at once where its channels lie beyond the rank. Nothing is gathered or read back, and the
number of launches is the same for every batch. Between the steps the r channels (3 r for q, k and
v) of each slot go through memory in the activations' dtype, the convolution in float32: about
3 C + 22 r elements for each pixel of a slot, bound by memory for 16-bit activations. Multiply-adds
for each pixel: 3 r C + 4 r^2 + 107 r + 6 r TILE (see fft_attention).

Epilogues: the modulation of the projection after the attention; gate, shortcut and the sum over an
image's experts of the last projection, which is why no atomic sum is needed and the result is
always the same.

Backward recomputes every step. Gradients of weights are sums over the slots of an expert: programs
share the tiles of each expert, and what they found is added up after, in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moce_kernels.expert_weights import ExpertWeights
from moce_kernels.ops._inputs import new_like
from moce_kernels.triton_kernels import _expert_kernels as kernels
from moce_kernels.triton_kernels._common import (
    Plan,
    blocks,
    compute_capability,
    flat,
    float32_precision,
    implement,
    pixel_block,
    scratch,
    splits,
    strided,
)
from moce_kernels.triton_kernels._norm_gate import norm_gate, norm_gate_backward
from moce_kernels.triton_kernels._parts import TRITON, Parts
from moce_kernels.triton_kernels._sums import add_up
from moce_kernels.triton_kernels.depthwise_conv import depthwise, depthwise_backward_weight

# Pixels, channels that come out and channels that go in of a program.
PIXELS, CHANNELS, DEPTH = 64, 32, 16


# --- launches ------------------------------------------------------------------------------------


class _Layer:
    """A layer on a batch: what all launches share, and the steps of the forward pass."""

    def __init__(
        self,
        x: Tensor,
        shared: Tensor,
        gate: Tensor,
        plan: Plan,
        weights: ExpertWeights,
        eps: float,
        parts: Parts,
    ) -> None:
        assert plan.ranks is not None
        self.parts = parts
        self.x, self.shared, self.plan, self.weights, self.eps = x, shared, plan, weights, eps
        self.gate = gate.contiguous()
        batch, self.dim, height, width = x.shape
        self.size, top_k = height * width, gate.shape[1]
        self.slots, self.rank = batch * top_k, plan.widest
        self.sizes = {"dim": self.dim, "size": self.size, "width": width, "top_k": top_k}
        self.pixels = pixel_block(PIXELS, self.size)

    def scratch(self, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        return scratch(self.x, (self.slots, channels, *self.x.shape[2:]), dtype)

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        out: Tensor,
        *,
        wide: bool = False,
        times: int = 1,
        transposed: bool = False,
        accumulate: bool = False,
    ) -> Tensor:
        grid = blocks(self.size, self.pixels), blocks(out.shape[1], CHANNELS), self.slots
        kernels.linear[grid](
            x=strided(x),
            out=strided(out),
            weight=weight,
            **self.sizes,
            **self.plan.by_slot,
            WIDE=wide,
            TIMES=times,
            TRANSPOSED=transposed,
            ACCUMULATE=accumulate,
            FLAT=flat(x, out),
            PRECISION=float32_precision(),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            DEPTH=DEPTH,
            num_warps=4,
        )
        return out

    def project_in(self) -> Tensor:
        return self.linear(self.x, self.weights.in_proj, self.scratch(self.rank), wide=True)

    def query(self, h: Tensor) -> Tensor:
        return self.linear(h, self.weights.query, self.scratch(self.rank))

    def key_value(self, h: Tensor) -> Tensor:
        """Keys and values of a slot side by side."""
        return self.linear(h, self.weights.key_value, self.scratch(2 * self.rank), times=2)

    def depthwise(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, **how: Any
    ) -> None:
        depthwise(x, weight, bias, out, rank=self.rank, plan=self.plan, **how)

    def convolved_query(self, q: Tensor) -> Tensor:
        w, out = self.weights, torch.empty_like(q)
        self.depthwise(q, w.query_dw, w.query_dw_bias, out, kernel=3)
        return out

    def convolved_key_value(self, kv: Tensor) -> Tensor:
        w, out = self.weights, torch.empty_like(kv)
        self.depthwise(kv, w.key_value_dw, w.key_value_dw_bias, out, kernel=7, times=2)
        return out

    def mixed(self, q: Tensor, kv: Tensor) -> Tensor:
        return self.parts.window_conv(q, kv, self.plan)

    def attention(self, mixed: Tensor, kv: Tensor) -> Tensor:
        w, out = self.weights, self.scratch(self.rank)
        norm_gate(mixed, kv, w.norm, w.norm_bias, out, eps=self.eps, rank=self.rank, plan=self.plan)
        return out

    def modulated(self, attention: Tensor) -> Tensor:
        """z"""
        z = self.scratch(self.rank)
        self._modulate(attention, z, d_attention=z, d_modulation=z, grad=z, sums=None)
        return z

    def modulated_backward(
        self, attention: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, the gradients of its two factors, and that of the gate."""
        z, d_attention, d_modulation = (self.scratch(self.rank) for _ in range(3))
        tiles = blocks(self.size, self.pixels)
        parts = splits(tiles, 32)
        count = tiles * blocks(self.rank, CHANNELS) + parts
        sums = torch.empty((self.slots, count), dtype=torch.float32, device=self.x.device)
        self._modulate(
            attention, z, d_attention=d_attention, d_modulation=d_modulation, grad=grad, sums=sums
        )
        kernels.gate_gradient[parts, self.slots](
            grad=strided(grad),
            x=strided(self.x),
            sums=sums,
            sums_b=count,
            **self.sizes,
            FLAT=flat(grad, self.x),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            num_warps=4,
        )
        return z, d_attention, d_modulation, sums.sum(dim=1).view(self.gate.shape)

    def _modulate(
        self,
        attention: Tensor,
        z: Tensor,
        *,
        d_attention: Tensor,
        d_modulation: Tensor,
        grad: Tensor,
        sums: Tensor | None,
    ) -> None:
        w, backward = self.weights, sums is not None
        grid = blocks(self.size, self.pixels), blocks(self.rank, CHANNELS), self.slots
        kernels.modulate[grid](
            a=strided(attention),
            shared=strided(self.shared),
            z=strided(z),
            grad=strided(grad),
            d_attention=strided(d_attention),
            d_modulation=strided(d_modulation),
            sums=sums,
            sums_b=0 if sums is None else sums.stride(0),
            attn_out=w.attn_out,
            attn_out_bias=w.attn_out_bias,
            mod_proj=w.mod_proj,
            out_proj=w.out_proj,
            gate=self.gate,
            **self.sizes,
            **self.plan.by_slot,
            BACKWARD=backward,
            # A gate's gradient is one number, the sum of all: TF32 always rounds towards zero.
            PRECISION=float32_precision(sensitive=backward),
            FLAT=flat(attention, self.shared, z, grad),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            DEPTH=DEPTH,
            num_warps=4,
            num_stages=3 if compute_capability() < 100 else 2,  # 3 spill
        )

    def project_out(
        self, a: Tensor, weight: Tensor, out: Tensor, x: Tensor | None, gated: bool
    ) -> Tensor:
        """The sum over each image's experts; x, if given, is added times the gates."""
        grid = blocks(self.size, self.pixels), blocks(self.dim, CHANNELS), out.shape[0]
        kernels.project_out[grid](
            a=strided(a),
            x=strided(out if x is None else x),
            out=strided(out),
            weight=weight,
            gate=self.gate,
            **self.sizes,
            index=self.plan.expert,
            RANKS=self.plan.ranks,
            WINDOWS=self.plan.windows,
            GATED=gated,
            SHORTCUT=x is not None,
            FLAT=flat(a, out, out if x is None else x),
            PRECISION=float32_precision(),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            DEPTH=DEPTH,
            num_warps=4,
        )
        return out

    def weight_gradient(
        self,
        a: Tensor,
        b: Tensor,
        like: Tensor,
        *,
        wide: bool = False,
        times: int = 1,
        gated: bool = False,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Of a weight like ``like`` that b went into and a is the gradient of what came out, and of
        a bias like ``bias``."""
        parts = splits(self.slots * blocks(self.size, self.pixels), 64)
        column_blocks = blocks(self.dim if wide else self.rank, CHANNELS)
        bias_size = 0 if bias is None else bias.numel()
        sums = self.x.new_empty((1, parts, like.numel() + bias_size), dtype=torch.float32)
        grid = parts, blocks(times * self.rank, CHANNELS) * column_blocks, self.plan.experts
        kernels.weight_gradient[grid](
            a=strided(a),
            b=strided(b),
            sums=sums,
            gate=self.gate,
            **self.sizes,
            total=like.numel(),
            bias_total=bias_size,
            column_blocks=column_blocks,
            **self.plan.by_expert,
            WIDE=wide,
            TIMES=times,
            GATED=gated,
            BIAS=bias is not None,
            FLAT=flat(a, b),
            PRECISION=float32_precision(),
            PIXELS=min(self.pixels, 32) if self.pixels == PIXELS else self.pixels,
            ROWS=CHANNELS,
            COLUMNS=CHANNELS,
            num_warps=4,
        )
        return add_up(sums, like.shape, (bias_size,))


# --- the operator --------------------------------------------------------------------------------


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
    layer = _Layer(x, shared, gate, plan, ExpertWeights(*weights), eps, parts)
    # Activations are let go of as soon as they were used: a network's memory is greatest here.
    h = layer.project_in()
    q = layer.convolved_query(layer.query(h))
    kv = layer.key_value(h)
    del h
    kv = layer.convolved_key_value(kv)
    mixed = layer.mixed(q, kv)
    del q
    attention = layer.attention(mixed, kv)
    del mixed, kv
    z = layer.modulated(attention)
    del attention
    return layer.project_out(z, layer.weights.out_proj, new_like(x), x, gated=True)


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
    layer = _Layer(x, shared, gate, plan, w, eps, parts)
    rank = layer.rank

    h = layer.project_in()
    before_q, before_kv = layer.query(h), layer.key_value(h)
    q, kv = layer.convolved_query(before_q), layer.convolved_key_value(before_kv)
    mixed = layer.mixed(q, kv)
    attention = layer.attention(mixed, kv)

    # From out to the attention.
    z, d_attention, d_modulation, dgate = layer.modulated_backward(attention, grad)
    d_out_proj, _ = layer.weight_gradient(z, grad, w.out_proj, wide=True, gated=True)
    d_mod_proj, _ = layer.weight_gradient(d_modulation, shared, w.mod_proj, wide=True)
    layer.project_out(d_modulation, w.mod_proj, dshared, None, gated=False)
    d_attn_out, d_attn_out_bias = layer.weight_gradient(
        d_attention, attention, w.attn_out, bias=w.attn_out_bias
    )

    # Through the attention, then the depthwise convolutions.
    d = layer.linear(d_attention, w.attn_out, attention, transposed=True)
    dq, dkv = torch.empty_like(q), torch.empty_like(kv)
    d_norm, d_norm_bias = norm_gate_backward(
        d, mixed, kv, w.norm, w.norm_bias, dkv, eps=eps, rank=rank, plan=plan
    )
    parts.window_correlate(mixed, q, kv, plan, dq, dkv)
    d_query_dw, d_query_dw_bias = depthwise_backward_weight(
        dq, before_q, rank=rank, plan=plan, kernel=3
    )
    d_key_value_dw, d_key_value_dw_bias = depthwise_backward_weight(
        dkv, before_kv, rank=rank, plan=plan, kernel=7, times=2
    )
    layer.depthwise(dq, w.query_dw, None, before_q, kernel=3, flip=True)
    layer.depthwise(dkv, w.key_value_dw, None, before_kv, kernel=7, times=2, flip=True)

    # From there to x.
    d_query, _ = layer.weight_gradient(before_q, h, w.query)
    d_key_value, _ = layer.weight_gradient(before_kv, h, w.key_value, times=2)
    dh = layer.linear(before_q, w.query, d, transposed=True)
    layer.linear(before_kv, w.key_value, dh, times=2, transposed=True, accumulate=True)
    d_in_proj, _ = layer.weight_gradient(dh, x, w.in_proj, wide=True)
    layer.project_out(dh, w.in_proj, dx, grad, gated=False)

    dweights = ExpertWeights(
        in_proj=d_in_proj,
        mod_proj=d_mod_proj,
        out_proj=d_out_proj,
        query=d_query,
        query_dw=d_query_dw,
        query_dw_bias=d_query_dw_bias,
        key_value=d_key_value,
        key_value_dw=d_key_value_dw,
        key_value_dw_bias=d_key_value_dw_bias,
        norm=d_norm,
        norm_bias=d_norm_bias,
        attn_out=d_attn_out,
        attn_out_bias=d_attn_out_bias,
    )
    return dx, dshared, dgate, list(dweights)
