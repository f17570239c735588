"""The launches of grouped_experts: see there for the steps that they are of."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moce_kernels.expert_weights import ExpertWeights
from moce_kernels.triton_kernels import _expert_gradients as gradients
from moce_kernels.triton_kernels import _expert_kernels as kernels
from moce_kernels.triton_kernels._common import (
    Plan,
    blocks,
    compute_capability,
    flat,
    float32_precision,
    pixel_block,
    scratch,
    splits,
    strided,
    up_to,
)
from moce_kernels.triton_kernels._norm_gate import norm_gate
from moce_kernels.triton_kernels._parts import Parts
from moce_kernels.triton_kernels._sums import add_up_five

# Pixels, channels that come out and channels that go in of a program.
PIXELS, CHANNELS, DEPTH = 64, 32, 16


class Layer:
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
        self.short = x.dtype != torch.float32

    def scratch(self, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        return scratch(self.x, (self.slots, channels, *self.x.shape[2:]), dtype)

    def projected(self) -> tuple[Tensor, Tensor, Tensor]:
        """h, q, and k and v of a slot side by side."""
        w, (h, q) = self.weights, (self.scratch(self.rank) for _ in range(2))
        kv = self.scratch(2 * self.rank)
        kernels.project[blocks(self.size, self.pixels), self.slots](
            x=strided(self.x),
            h=strided(h),
            q=strided(q),
            kv=strided(kv),
            in_proj=w.in_proj,
            query=w.query,
            key_value=w.key_value,
            **self.sizes,
            **self.plan.by_slot,
            FLAT=flat(self.x, h),
            PRECISION=float32_precision(),
            PIXELS=self.pixels,
            CHANNELS=up_to(64, self.dim),
            DEPTH=up_to(64, self.dim) if self.short else DEPTH,
            num_warps=4,
        )
        return h, q, kv

    def convolved_query(self, q: Tensor) -> Tensor:
        w, out = self.weights, torch.empty_like(q)
        self.parts.grouped_depthwise_conv(q, w.query_dw, w.query_dw_bias, self.plan, 1, False, out)
        return out

    def convolved_key_value(self, kv: Tensor) -> Tensor:
        w, out = self.weights, torch.empty_like(kv)
        self.parts.grouped_depthwise_conv(
            kv, w.key_value_dw, w.key_value_dw_bias, self.plan, 2, False, out
        )
        return out

    def mixed(self, q: Tensor, kv: Tensor) -> Tensor:
        return self.parts.window_conv(q, kv, self.plan)

    def attention(self, mixed: Tensor, kv: Tensor) -> Tensor:
        w, out = self.weights, self.scratch(self.rank)
        norm_gate(mixed, kv, w.norm, w.norm_bias, out, eps=self.eps, rank=self.rank, plan=self.plan)
        return out

    def finished(self, mixed: Tensor, kv: Tensor, out: Tensor) -> Tensor:
        w = self.weights
        channels = up_to(128, self.dim)
        channel_blocks = blocks(self.dim, channels)
        kernels.finish[blocks(self.size, self.pixels) * channel_blocks, out.shape[0]](
            mixed=strided(mixed),
            kv=strided(kv),
            shared=strided(self.shared),
            x=strided(self.x),
            out=strided(out),
            norm=w.norm,
            norm_bias=w.norm_bias,
            attn_out=w.attn_out,
            attn_out_bias=w.attn_out_bias,
            mod_proj=w.mod_proj,
            out_proj=w.out_proj,
            gate=self.gate,
            eps=self.eps,
            channel_blocks=channel_blocks,
            **self.sizes,
            index=self.plan.expert,
            RANKS=self.plan.ranks,
            WINDOWS=self.plan.windows,
            FLAT=flat(mixed, kv, self.shared, self.x, out),
            PRECISION=float32_precision(),
            PIXELS=self.pixels,
            CHANNELS=channels,
            INNER=up_to(64, self.dim) if self.short else CHANNELS,
            DEPTH=2 * DEPTH,
            num_warps=4 if channels <= 32 else 8,
            num_stages=3 if self.short else 2,  # 3 spill
        )
        return out


class Weight(NamedTuple):
    """A weight whose gradient is wanted: what that of its output is, and what went in."""

    a: Tensor
    b: Tensor
    role: str
    wide: bool = False  # b has all channels of an image
    times: int = 1  # as many ranks come out
    gated: bool = False
    bias: bool = False  # its gradient as well


class LayerBackward(Layer):
    """The steps of the backward pass as well.

    The gradients of most weights are products over pixels, of which programs leave parts in one
    tensor for all of them. One launch adds them up, with the parts of other gradients.
    """

    SUMMED = "in_proj", "mod_proj", "out_proj", "query", "key_value", "attn_out", "attn_out_bias"

    def __init__(self, *layer: Any) -> None:
        super().__init__(*layer)
        sizes = [getattr(self.weights, role).numel() for role in self.SUMMED]
        self.places = dict(zip(self.SUMMED, itertools.accumulate([0, *sizes]), strict=False))
        parts = splits(self.slots * blocks(self.size, self.pixels), 64)
        self.sums = self.x.new_empty((parts, sum(sizes)), dtype=torch.float32)

    def project_back(
        self, a: Tensor, of_a: Tensor, out: Tensor, b: Tensor | None = None, of_b: Any = None
    ) -> Tensor:
        """out = of_a^T a, and of_b^T b as well where there is b."""
        grid = blocks(self.size, self.pixels), blocks(self.rank, CHANNELS), self.slots
        gradients.project_back[grid](
            a=strided(a),
            b=strided(a if b is None else b),
            out=strided(out),
            of_a=of_a,
            of_b=of_a if b is None else of_b,
            size=self.size,
            width=self.sizes["width"],
            **self.plan.by_slot,
            BOTH=b is not None,
            FLAT=flat(a, out, a if b is None else b),
            PRECISION=float32_precision(),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            DEPTH=DEPTH,
            num_warps=4,
        )
        return out

    def modulated_backward(
        self, attention: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, the gradients of its two factors, and parts of the sum that the gate's is."""
        z, d_attention, d_modulation = (self.scratch(self.rank) for _ in range(3))
        tiles, across = blocks(self.size, self.pixels), blocks(self.rank, CHANNELS) + 1
        sums = torch.empty((tiles * across, self.slots), dtype=torch.float32, device=self.x.device)
        w = self.weights
        gradients.modulate_backward[tiles, across, self.slots](
            a=strided(attention),
            shared=strided(self.shared),
            x=strided(self.x),
            z=strided(z),
            grad=strided(grad),
            d_attention=strided(d_attention),
            d_modulation=strided(d_modulation),
            sums=sums,
            attn_out=w.attn_out,
            attn_out_bias=w.attn_out_bias,
            mod_proj=w.mod_proj,
            out_proj=w.out_proj,
            gate=self.gate,
            **self.sizes,
            **self.plan.by_slot,
            # A gate's gradient is one number, the sum of all: TF32 always rounds towards zero.
            PRECISION=float32_precision(sensitive=True),
            FLAT=flat(attention, self.shared, self.x, z, grad),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            DEPTH=DEPTH,
            num_warps=4,
            num_stages=3 if compute_capability() < 100 else 2,  # 3 spill
        )
        return z, d_attention, d_modulation, sums

    def sum_of_experts(
        self, a: Tensor, weight: Tensor, out: Tensor, x: Tensor | None = None
    ) -> Tensor:
        """The sum over each image's experts; x, if given, is added times the gates."""
        grid = blocks(self.size, self.pixels), blocks(self.dim, CHANNELS), out.shape[0]
        gradients.sum_of_experts[grid](
            a=strided(a),
            x=strided(out if x is None else x),
            out=strided(out),
            weight=weight,
            gate=self.gate,
            **self.sizes,
            index=self.plan.expert,
            RANKS=self.plan.ranks,
            WINDOWS=self.plan.windows,
            SHORTCUT=x is not None,
            FLAT=flat(a, out, out if x is None else x),
            PRECISION=float32_precision(),
            PIXELS=self.pixels,
            CHANNELS=CHANNELS,
            DEPTH=DEPTH,
            num_warps=4,
        )
        return out

    def sum_weight_gradients(self, first: Weight, second: Weight, third: Weight) -> None:
        """Parts of the sums that three weights' gradients are, see ``gradients``."""
        three = first, second, third
        parts, width = self.sums.shape
        wide_blocks, column_blocks = blocks(self.dim, CHANNELS), blocks(self.rank, CHANNELS)
        tiles = [
            blocks(w.times * self.rank, CHANNELS) * (wide_blocks if w.wide else column_blocks)
            for w in three
        ]
        gradients.weight_gradients[parts, sum(tiles), self.plan.experts](
            a0=strided(first.a),
            b0=strided(first.b),
            a1=strided(second.a),
            b1=strided(second.b),
            a2=strided(third.a),
            b2=strided(third.b),
            sums=self.sums,
            sums_b=width,
            place0=self.places[first.role],
            place1=self.places[second.role],
            place2=self.places[third.role],
            tiles0=tiles[0],
            tiles1=tiles[1],
            gate=self.gate,
            **self.sizes,
            wide_blocks=wide_blocks,
            column_blocks=column_blocks,
            **self.plan.by_expert,
            WIDE=tuple(w.wide for w in three),
            TIMES=tuple(w.times for w in three),
            GATED=tuple(w.gated for w in three),
            BIAS=tuple(w.bias for w in three),
            FLAT=flat(*(t for w in three for t in (w.a, w.b))),
            PRECISION=float32_precision(),
            PIXELS=self.pixels if self.short or self.pixels != PIXELS else 32,
            ROWS=CHANNELS,
            COLUMNS=CHANNELS,
            num_warps=4,
            num_stages=3 if self.short or compute_capability() < 100 else 2,  # 3 spill
        )

    def gradients(
        self, of_gate: Tensor, of_norm: Tensor, of_query_dw: Tensor, of_key_value_dw: Tensor
    ) -> tuple[Tensor, ExpertWeights]:
        """Of the gates and of all weights, from the parts of their sums, (parts, size) each; once
        ``sum_weight_gradients`` was called for the roles in ``SUMMED``."""
        gate, norm, query_dw, key_value_dw, rest = add_up_five(
            of_gate, of_norm, of_query_dw, of_key_value_dw, self.sums
        )
        flat = {
            **_split(norm, self.weights, "norm", "norm_bias"),
            **_split(query_dw, self.weights, "query_dw", "query_dw_bias"),
            **_split(key_value_dw, self.weights, "key_value_dw", "key_value_dw_bias"),
            **_split(rest, self.weights, *self.SUMMED),
        }
        return gate.view(self.gate.shape), ExpertWeights(**flat)


def _split(values: Tensor, like: ExpertWeights, *roles: str) -> dict[str, Tensor]:
    """Values in a row, as weights in these roles."""
    shapes = [getattr(like, role).shape for role in roles]
    parts = values.split([shape.numel() for shape in shapes])
    return {r: part.view(shape) for r, part, shape in zip(roles, parts, shapes, strict=True)}
