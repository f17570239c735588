"""The published code's checkpoints, both ways."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moce_kernels import ExpertWeights
from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.files import whole_file
from moceir.model import MoCEIR
from moceir.weights.state import load_state

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
        (r"\.norm_attention\.", ".norms.0.body."),
        (r"\.norm_feedforward\.", ".norms.1.body."),
        (r"\.to_shared\.", ".proj.0."),
        (r"\.to_routed\.", ".proj.1."),
        (r"\.shared_expert\.", ".shared."),
        (r"\.(cross_)?attention\.", ".mixer."),
        (r"\.feedforward\.", ".ffn."),
        (r"\.experts\.project_out\.", ".adapter.proj_out."),
        (r"\.experts\.router\.from_features\.", ".adapter.routing.gate.2."),
        (r"\.experts\.router\.from_frequency\.", ".adapter.routing.freq_gate."),
    ),
    (
        (r"\.qkv_depthwise\.", ".qkv_dwconv."),
        (r"\.query_depthwise\.", ".q_dwconv."),
        (r"\.key_value_depthwise\.", ".kv_dwconv."),
        (r"\.query\.", ".q."),
        (r"\.key_value\.", ".kv."),
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


def load_published(
    source: str | Path | Mapping[str, Tensor], config: MoCEIRConfig | None = None
) -> MoCEIR:
    """A network, in evaluation mode, with published weights, strictly.

    Args:
        source: a Lightning checkpoint or a file with a bare state_dict, read without running any
            pickled code; or the state_dict itself, with or without ``net.`` before each name.
        config: the network; if None it is read off the tensors, with top_k 1.

    Raises:
        WeightsError: not such a file, truncated, or a missing, surplus or misshapen tensor.
        OSError: the file cannot be opened.
    """
    where = ""
    if isinstance(source, (str, Path)):
        where = f"{source}: "
        source = _read(Path(source))
    if source and all(key.startswith("net.") for key in source):
        source = {key.removeprefix("net."): value for key, value in source.items()}
    try:
        return _build(source, config or infer_config(source))
    except WeightsError as error:
        raise WeightsError(f"{where}{error}") from None


def save_published(model: MoCEIR, path: Path) -> None:
    """Write a checkpoint for the published code: Lightning's for ``.ckpt``, else a state_dict.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    state = to_published(model)
    content: dict[str, object] = dict(state)
    if path.suffix == ".ckpt":
        content = {
            "state_dict": {f"net.{key}": tensor for key, tensor in state.items()},
            "pytorch-lightning_version": "2.0.0",
            "epoch": 0,
            "global_step": 0,
        }
    with whole_file(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch's zip writer raises on a full disk
            raise OSError(f"{path}: cannot be written ({error})") from error


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state_dict in a file, without running pickled code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a checkpoint, or one with more than tensors and plain values in it, "
            "which could run code when read; save its state_dict alone and load that "
            f"({str(error).splitlines()[0]})"
        ) from None
    except Exception as error:  # a truncated archive raises whatever its reader trips over
        raise WeightsError(f"{path}: not a whole checkpoint ({error})") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{path}: holds no state_dict, a mapping of names to tensors")
    return content


def infer_config(state: Mapping[str, Tensor]) -> MoCEIRConfig:
    """The configuration that published tensors have; what shapes cannot tell is the default.

    Raises:
        WeightsError: tensors of something else.
    """

    def count(pattern: str) -> int:
        found = {int(m[1]) for key in state if (m := re.match(pattern, key))}
        return max(found) + 1 if found else 0

    try:
        levels = count(r"enc\.(\d+)\.") + 1
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
            num_experts=count(r"dec\.0\.2\.layers\.0\.adapter\.experts\.(\d+)\."),
            stage_depth=(1,) * (levels - 1),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"not the weights of a published MoCE-IR ({error})") from None


def to_published(model: MoCEIR) -> dict[str, Tensor]:
    """The published code's state_dict of a network.

    Raises:
        WeightsError: the published code has no place for ``expert_path``.
    """
    if model.config.expert_path:
        raise WeightsError(
            "a network with expert_path has weights that the published code has no place for"
        )
    state = model.state_dict()
    out = {}
    for entry in _slices(model):
        part = state[entry.ours]
        if entry.expert is not None:
            part = _experts_of(model.config, entry.ours, part)[entry.expert]
            part = _to_published_shape(entry.ours, part, model.config, entry.expert)
        out[entry.published] = part.detach().clone()
    for name, module in model.named_modules():
        if name.endswith(".experts.router"):
            key = _rename(f"{name.removesuffix('router')}project_out.")
            out[key.replace("proj_out.", "routing.complexity")] = module.complexity_bias.clone()
    return out


def _build(state: Mapping[str, Tensor], config: MoCEIRConfig) -> MoCEIR:
    """A network of published tensors; the routers' constant ``complexity`` is not read."""
    model = MoCEIR(config)
    parts: dict[str, list[Tensor]] = {}
    template = model.state_dict()
    expected = set()
    problems = []
    for entry in _slices(model):
        expected.add(entry.published)
        target = template[entry.ours]
        if entry.expert is not None:
            target = _experts_of(config, entry.ours, target)[entry.expert]
            shape = _to_published_shape(entry.ours, target, config, entry.expert).shape
        else:
            shape = target.shape
        if entry.published not in state:
            problems.append(f"missing {entry.published}")
            continue
        tensor = state[entry.published]
        if tensor.shape != shape:
            problems.append(
                f"{entry.published} has shape {tuple(tensor.shape)}, expected {tuple(shape)}"
            )
            continue
        if entry.expert is not None and entry.ours.endswith(".out_proj"):
            tensor = tensor.flatten(1).t()
        parts.setdefault(entry.ours, []).append(tensor.reshape(target.shape))
    problems += [
        f"surplus {key}" for key in state if key not in expected and not _COMPLEXITY.match(key)
    ]
    if problems:
        raise WeightsError.of_tensors(problems, "another configuration? Name the preset it has")
    load_state(model, {ours: torch.cat(tensors) for ours, tensors in parts.items()})
    return model.eval()


def _slices(model: MoCEIR) -> Iterator[_Slice]:
    for ours in model.state_dict():
        bank = _BANK.match(ours)
        if bank:
            level, block, role = bank.groups()
            for expert in range(model.config.num_experts):
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
