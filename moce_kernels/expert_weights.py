"""The weights of all experts of one layer, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class ExpertWeights(NamedTuple):
    """One tensor per role, with the experts' ranks r_i one after another (R = sum of r_i).

    Matrices between ranks differ in shape from expert to expert and are stored flat.
    """

    in_proj: Tensor  # (R, C): P0, C -> r
    mod_proj: Tensor  # (R, C): P1, C -> r, of the shared expert's output
    out_proj: Tensor  # (R, C): P2 transposed, r -> C
    query: Tensor  # (sum r*r,): r x r
    query_dw: Tensor  # (R, 3, 3)
    query_dw_bias: Tensor  # (R,)
    key_value: Tensor  # (sum 2*r*r,): 2r x r, keys before values
    key_value_dw: Tensor  # (2R, 7, 7)
    key_value_dw_bias: Tensor  # (2R,)
    norm: Tensor  # (R,): LayerNorm over channels
    norm_bias: Tensor  # (R,)
    attn_out: Tensor  # (sum r*r,): r x r
    attn_out_bias: Tensor  # (R,)

    def split(self, ranks: Sequence[int]) -> list[ExpertWeights]:
        """The same roles for each expert alone, as views."""
        per_role = [
            self.split_role(role, tensor, ranks)
            for role, tensor in zip(self._fields, self, strict=True)
        ]
        return [ExpertWeights(*expert) for expert in zip(*per_role, strict=True)]

    @staticmethod
    def split_role(role: str, tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        """One role's tensor for each expert alone, as views."""
        return list(tensor.split([expert_weight_shapes(1, [r])[role][0] for r in ranks]))


def expert_weight_shapes(dim: int, ranks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of each role of ``ExpertWeights``: experts of these ranks on ``dim`` channels."""
    total, squares = sum(ranks), sum(r * r for r in ranks)
    return {
        "in_proj": (total, dim),
        "mod_proj": (total, dim),
        "out_proj": (total, dim),
        "query": (squares,),
        "query_dw": (total, 3, 3),
        "query_dw_bias": (total,),
        "key_value": (2 * squares,),
        "key_value_dw": (2 * total, 7, 7),
        "key_value_dw_bias": (2 * total,),
        "norm": (total,),
        "norm_bias": (total,),
        "attn_out": (squares,),
        "attn_out_bias": (total,),
    }
