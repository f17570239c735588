"""Networks from files, and into files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.files import whole_file
from moceir.model.network import MoCEIR
from moceir.model.routing import Router
from moceir.weights import published
from moceir.weights.bundled import BUNDLED, bundled_path
from moceir.weights.files import read_weights, write_weights
from moceir.weights.state import load_state


def load_model(source: str | Path) -> MoCEIR:
    """A network in evaluation mode.

    Args:
        source: a bundled name; a folder of ``save_pretrained``; a ``.safetensors`` file with its
            configuration inside; or a checkpoint of the published code.

    Raises:
        WeightsError: nothing of that name, or weights that cannot be used.
    """
    if source in BUNDLED:
        return load_weights(bundled_path(str(source)))
    path = Path(source)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"{source}: no such weights; name a file, a folder with model.safetensors, or bundled "
            f"weights ({', '.join(BUNDLED)})"
        )
    try:
        return load_weights(path) if path.suffix == ".safetensors" else load_published(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None


def save_weights(model: MoCEIR, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a network to one file, whole or not at all.

    Args:
        dtype: of the stored tensors; the network's own if None.

    Raises:
        OSError: the file cannot be written.
    """
    write_weights(model.config, model.state_dict(), path, dtype)


def load_weights(path: Path) -> MoCEIR:
    """Read a file of ``save_weights`` into a new float32 network in evaluation mode.

    Raises:
        WeightsError: not such a file, truncated, or its tensors do not fit its configuration.
        OSError: the file cannot be opened.
    """
    config, tensors = read_weights(path)
    model = MoCEIR(config)
    try:
        load_state(model, tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return model.eval()


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
        source = published.read_published(Path(source))
    try:
        model = MoCEIR(config or published.infer_config(source))
        own = published.from_published(source, model.config, model.state_dict())
    except WeightsError as error:
        raise WeightsError(f"{where}{error}") from None
    load_state(model, own)
    return model.eval()


def to_published(model: MoCEIR) -> dict[str, Tensor]:
    """The published code's state_dict of a network.

    Raises:
        WeightsError: the published code has no place for ``expert_path``.
    """
    state = published.to_published(model.config, model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, Router):
            state[published.complexity_key(name)] = module.complexity_bias.clone()
    return state


def save_published(model: MoCEIR, path: Path) -> None:
    """Write a checkpoint for the published code: Lightning's for ``.ckpt``, else a state_dict.

    Raises:
        WeightsError: as ``to_published``.
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
