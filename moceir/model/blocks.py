"""Blocks of the encoder, the bottleneck, the decoder and the refinement (Sec. 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moceir.model.attention import CrossAttention, TransposedAttention
from moceir.model.experts import ExpertLayer
from moceir.model.feedforward import GatedFeedForward
from moceir.model.layers import ChannelNorm, PointwiseConv
from moceir.model.routing import BlockRouting


class TransformerBlock(nn.Module):
    """Restormer's block: ``x + MDTA(LN(x))``, then ``x + GDFN(LN(x))``, on (B, C, H, W)."""

    def __init__(self, dim: int, heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.norm_attention = ChannelNorm(dim)
        self.attention = TransposedAttention(dim, heads, bias=True)
        self.norm_feedforward = ChannelNorm(dim)
        self.feedforward = GatedFeedForward(dim, ffn_expansion, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, self.norm_attention, residual=x)
        return self.feedforward(x, self.norm_feedforward)


class DecoderBlock(nn.Module):
    """A block with a mixture of complexity experts.

    The shared expert S (MDTA) sees every image. The routed experts, modulated by S (eq. 1), give
    the query of a cross attention whose keys and values come from S.

    With ``expert_path``, which the paper does not have, what the experts changed is also projected
    and added to the features. The cross attention scales its query to unit length, so that without
    this path the loss of the restored image says next to nothing about experts and gates.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_expansion: float,
        experts: ExpertLayer,
        expert_path: bool = False,
    ) -> None:
        super().__init__()
        self.norm_attention = ChannelNorm(dim)
        self.to_shared = PointwiseConv(dim, dim, bias=True)
        self.to_routed = PointwiseConv(dim, dim, bias=True)
        self.shared_expert = TransposedAttention(dim, heads, bias=False)
        self.experts = experts
        self.cross_attention = CrossAttention(dim, heads)
        self.expert_path = PointwiseConv(dim, dim, bias=False) if expert_path else None
        self.norm_feedforward = ChannelNorm(dim)
        self.feedforward = GatedFeedForward(dim, ffn_expansion, bias=False)

    def forward(self, x: Tensor, frequency: Tensor) -> tuple[Tensor, BlockRouting]:
        """x: (B, C, H, W); frequency: (B, F), the embedding of the bottleneck."""
        shared = self.shared_expert(x, self.norm_attention, first=self.to_shared)
        before = self.to_routed(x, self.norm_attention)
        routed, routing = self.experts(before, shared, frequency)
        if self.expert_path is not None:
            gate = routing.plan.gate.sum(dim=1)[:, None, None, None]
            x = self.expert_path(
                torch.addcmul(routed, gate.to(before.dtype), before, value=-1), residual=x
            )
        del before
        # Activations are let go of as soon as they were used: they are what memory goes to.
        query = self.cross_attention.project_query(routed, first=self.experts.project_out)
        del routed
        key_value = self.cross_attention.project_key_value(shared)
        del shared
        x = self.cross_attention(query, key_value, residual=x)
        del query, key_value
        return self.feedforward(x, self.norm_feedforward), routing
