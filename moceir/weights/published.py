"""Conversion from and to the published code's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from moce_kernels import ExpertWeights
from moceir.config import MAX_LEVELS, MoCEIRConfig
from moceir.errors import WeightsError
from moceir.weights.state import check_finite, misfit

# Our names on the left, theirs on the right; the first pattern that fits is applied, in each group.
_RENAMES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        (r"^stem\.", "patch_embed.proj."),
        (r"^frequency_embedding\.high_pass\.", "freq_embed.high_conv.0.conv."),
        (r"^frequency_embedding\.mlp\.", "freq_embed.mlp."),
        (r"^encoder\.(\d+)\.blocks\.", r"enc.\1.0.layers."),
        (r"^encoder\.(\d+)\.downsample\.", r"enc.\1.1.body.0."),
        (r"^bottleneck\.", "latent.layers."),
        (r"^decoder\.(\d+)\.upsample\.", r"dec.\1.0.body.0."),
        (r"^decoder\.(\d+)\.fuse\.", r"dec.\1.1."),
        (r"^decoder\.(\d+)\.blocks\.", r"dec.\1.2.layers."),
        (r"^refinement\.", "refinement.layers."),
    ),
    (
        (r"\.attention\.norm\.", ".norms.0.body."),
        (r"(\.\d+)\.norm\.", r"\1.norms.0.body."),
        (r"\.feedforward\.norm\.", ".norms.1.body."),
        (r"\.shared_expert\.project_in\.", ".proj.0."),
        (r"\.to_routed\.", ".proj.1."),
        (r"\.cross_attention\.query\.project_in\.", ".adapter.proj_out."),
        (r"\.shared_expert\.", ".shared."),
        (r"\.(cross_)?attention\.", ".mixer."),
        (r"\.feedforward\.", ".ffn."),
        (r"\.experts\.router\.from_features\.", ".adapter.routing.gate.2."),
        (r"\.experts\.router\.from_frequency\.", ".adapter.routing.freq_gate."),
    ),
    (
        (r"\.qkv_depthwise\.", ".qkv_dwconv."),
        (r"\.query\.projection\.", ".q."),
        (r"\.query\.depthwise\.", ".q_dwconv."),
        (r"\.key_value\.projection\.", ".kv."),
        (r"\.key_value\.depthwise\.", ".kv_dwconv."),
        (r"\.depthwise\.", ".dwconv."),
    ),
)

_EXPERT_NAMES = {
    "in_proj": "proj.0.weight",
    "mod_proj": "proj.1.weight",
    "out_proj": "proj.2.weight",
    "query": "body.q.weight",
    "query_dw": "body.q_dwconv.weight",
    "query_dw_bias": "body.q_dwconv.bias",
    "key_value": "body.kv.weight",
    "key_value_dw": "body.kv_dwconv.weight",
    "key_value_dw_bias": "body.kv_dwconv.bias",
    "norm": "body.norm.body.weight",
    "norm_bias": "body.norm.body.bias",
    "attn_out": "body.proj_out.weight",
    "attn_out_bias": "body.proj_out.bias",
}

_BANK = re.compile(r"^decoder\.(\d+)\.blocks\.(\d+)\.experts\.bank\.(\w+)$")
_COMPLEXITY = re.compile(r"^dec\.\d+\.2\.layers\.\d+\.adapter\.routing\.complexity$")


class _Slice(NamedTuple):
    """A published tensor as a part of one of ours."""

    published: str
    ours: str
    expert: int | None
    """Position in the bank, or None: the whole tensor."""


def infer_config(state: Mapping[str, Tensor]) -> MoCEIRConfig:
    """The configuration inferred from published tensors; what shapes do not reveal is the default.

    Raises:
        WeightsError: tensors of something else.
    """

    def count(pattern: str) -> int:
        found = {int(m[1]) for key in state if (m := re.match(pattern, key))}
        if len(found) != max(found, default=-1) + 1:
            raise ValueError(f"some of the {len(found)} layers named {pattern} are missing")
        return len(found)

    try:
        levels = count(r"enc\.(\d+)\.") + 1
        if levels > MAX_LEVELS:
            raise ValueError(f"{levels} levels; at most {MAX_LEVELS} are allowed")
        encoder = [*(rf"enc\.{i}\.0" for i in range(levels - 1)), "latent"]
        decoder = [rf"dec\.{i}\.2" for i in reversed(range(levels - 1))]
        dim = state["patch_embed.proj.weight"].shape[0]
        return MoCEIRConfig(
            dim=dim,
            num_blocks=tuple(count(rf"{group}\.layers\.(\d+)\.") for group in encoder),
            num_dec_blocks=tuple(count(rf"{group}\.layers\.(\d+)\.") for group in decoder),
            num_refinement_blocks=count(r"refinement\.layers\.(\d+)\."),
            heads=tuple(
                state[group.replace("\\", "") + ".layers.0.mixer.temperature"].shape[0]
                for group in encoder
            ),
            ffn_expansion=state["latent.layers.0.ffn.project_out.weight"].shape[1]
            / state["latent.layers.0.ffn.project_out.weight"].shape[0],
            num_experts=state["dec.0.2.layers.0.adapter.routing.gate.2.weight"].shape[0],
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"not the weights of a published MoCE-IR ({error})") from None


def infer_own_config(state: Mapping[str, Tensor]) -> MoCEIRConfig:
    """The same of tensors with this package's names.

    Raises:
        WeightsError: tensors of something else.
    """
    config = infer_config({_rename(key): tensor for key, tensor in state.items()})
    return config.replace(expert_path=any(".expert_path." in key for key in state))


def to_published(config: MoCEIRConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors as the published code names them, without its routers' constant.

    Args:
        state: of a network of this configuration.

    Raises:
        WeightsError: ``expert_path``, which the published code does not have.
    """
    if config.expert_path:
        raise WeightsError(
            "a network with expert_path, such as a bundled one, has weights that do not exist in "
            "the published code: convert one trained without it"
        )
    out = {}
    for entry in _slices(config, state):
        part = state[entry.ours]
        if entry.expert is not None:
            part = _experts_of(config, entry.ours, part)[entry.expert]
            part = _to_published_shape(entry.ours, part, config, entry.expert)
        out[entry.published] = part.detach().clone()
    return out


def complexity_key(router: str) -> str:
    """The published name of the constant ``complexity_bias`` of one of our routers."""
    return _rename(f"{router}.from_frequency.").replace("freq_gate.", "complexity")


def from_published(
    published: Mapping[str, Tensor], config: MoCEIRConfig, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Published tensors as ours; the routers' constant ``complexity`` is not read.

    Args:
        published: by the published names.
        state: of a network of this configuration, for its names and shapes; ``meta`` suffices.

    Raises:
        WeightsError: a missing, surplus, misshapen or integer tensor, or one that is not finite.
    """
    parts: dict[str, list[Tensor]] = {}
    expected = set()
    problems = []
    for entry in _slices(config, state):
        expected.add(entry.published)
        target = state[entry.ours]
        if entry.expert is not None:
            target = _experts_of(config, entry.ours, target)[entry.expert]
            shape = _to_published_shape(entry.ours, target, config, entry.expert).shape
        else:
            shape = target.shape
        if entry.published not in published:
            problems.append(f"missing {entry.published}")
            continue
        tensor = published[entry.published]
        if problem := misfit(entry.published, tensor, shape):
            problems.append(problem)
            continue
        if entry.expert is not None and entry.ours.endswith(".out_proj"):
            tensor = tensor.flatten(1).t()
        parts.setdefault(entry.ours, []).append(tensor.reshape(target.shape))
    surplus = [key for key in published if key not in expected and not _COMPLEXITY.match(key)]
    remedy = "weights of another network or configuration"
    if surplus and not problems:
        remedy = "save the state_dict without these tensors and load that"
    problems += [f"surplus {key}" for key in surplus]
    if problems:
        raise WeightsError.of_tensors(problems, remedy)
    check_finite({key: published[key] for key in expected})
    return {ours: torch.cat(tensors) for ours, tensors in parts.items()}


def _slices(config: MoCEIRConfig, state: Mapping[str, Tensor]) -> Iterator[_Slice]:
    for ours in state:
        bank = _BANK.match(ours)
        if bank:
            level, block, role = bank.groups()
            for expert in range(config.num_experts):
                prefix = f"dec.{level}.2.layers.{block}.adapter.experts.{expert}.0."
                yield _Slice(prefix + _EXPERT_NAMES[role], ours, expert)
        else:
            yield _Slice(_rename(ours), ours, None)


def _rename(name: str) -> str:
    for group in _RENAMES:
        for pattern, replacement in group:
            name, hits = re.subn(pattern, replacement, name, count=1)
            if hits:
                break
    return name


def _experts_of(config: MoCEIRConfig, ours: str, tensor: Tensor) -> list[Tensor]:
    """One tensor of a bank, split by expert."""
    ranks = _ranks(config, ours)
    return ExpertWeights.split_role(ours.rsplit(".", 1)[1], tensor, ranks)


def _ranks(config: MoCEIRConfig, ours: str) -> tuple[int, ...]:
    position = int(ours.split(".")[1])
    return config.ranks(len(config.dims) - 2 - position)


def _to_published_shape(ours: str, part: Tensor, config: MoCEIRConfig, expert: int) -> Tensor:
    """An expert's part of a bank tensor in the shape of the published module."""
    role = ours.rsplit(".", 1)[1]
    rank = _ranks(config, ours)[expert]
    if role == "out_proj":
        return part.t()[:, :, None, None]
    if role in ("query", "attn_out", "key_value"):
        return part.reshape(-1, rank, 1, 1)
    if part.ndim == 2:
        return part[:, :, None, None]
    return part[:, None] if part.ndim == 3 else part
