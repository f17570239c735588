"""Blocks of the encoder, the bottleneck, the decoder and the refinement (Sec. 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from moceir.model.attention import CrossAttention, PreNormAttention, SharedExpert
from moceir.model.experts import ExpertLayer, change_by_experts
from moceir.model.feedforward import GatedFeedForward
from moceir.model.layers import ChannelNorm, PointwiseConv, normalised
from moceir.model.routing import BlockRouting


class TransformerBlock(nn.Module):
    """Restormer's block: ``x + MDTA(LN(x))``, then ``x + GDFN(LN(x))``, on (B, C, H, W)."""

    def __init__(self, dim: int, heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.attention = PreNormAttention(dim, heads, bias=True)
        self.feedforward = GatedFeedForward(dim, ffn_expansion, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, residual=x)
        return self.feedforward(x, residual=x)


class DecoderBlock(nn.Module):
    """A block with a mixture of complexity experts (Sec. 3.2).

    The shared expert S sees every image. The routed experts, modulated by S (eq. 1), give the query
    of a cross attention whose keys and values come from S.

    With ``expert_path``, which the paper does not have, what the experts changed is also projected
    and added to the features. The cross attention scales its query to unit length, so without this
    path the reconstruction loss hardly trains experts and gates. There S
    is normalised before it modulates the experts: S is small, and what the experts add to their
    input is a product with it, which would be too small to matter.
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
        self.norm = ChannelNorm(dim)
        self.shared_expert = SharedExpert(dim, heads)
        self.to_routed = PointwiseConv(dim, dim, bias=True)
        self.experts = experts
        self.expert_path = PointwiseConv(dim, dim, bias=False) if expert_path else None
        self.cross_attention = CrossAttention(dim, heads)
        self.feedforward = GatedFeedForward(dim, ffn_expansion, bias=False)

    def forward(self, x: Tensor, frequency: Tensor) -> tuple[Tensor, BlockRouting]:
        """x: (B, C, H, W); frequency: (B, n), what the frequency embedding says of the route."""
        # Both normalise x as they read it, by the one norm of the block.
        shared = self.shared_expert(x, self.norm)
        before = self.to_routed(x, self.norm)
        modulator = shared if self.expert_path is None else normalised(shared)
        routed, routing = self.experts(before, modulator, frequency)
        del modulator
        if self.expert_path is not None:
            change = change_by_experts(routed, before, routing.plan.gate)
            x = self.expert_path(change, residual=x)
            del change
        # Activations are released as soon as they have been used: they dominate memory.
        del before
        query = self.cross_attention.query(routed)
        del routed
        key_value = self.cross_attention.key_value(shared)
        del shared
        x = self.cross_attention(query, key_value, residual=x)
        del query, key_value
        return self.feedforward(x, residual=x), routing
