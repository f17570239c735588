"""Loading networks from files and saving them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import Tensor

from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError, first_line
from moceir.files import make_folder, whole_file
from moceir.model.network import MoCEIR
from moceir.model.routing import Router
from moceir.weights import published
from moceir.weights.bundled import BUNDLED, TOGETHER, bundled_path
from moceir.weights.checkpoints import OURS, PUBLISHED, of_network, read_checkpoint
from moceir.weights.files import (
    SUFFIXES,
    has_configuration,
    read_weights,
    torch_save,
    write_weights,
)
from moceir.weights.names import current_names


def load_model(source: str | Path) -> MoCEIR:
    """Load a network, in evaluation mode.

    Args:
        source: a bundled name (a folder that is called so: ``./NAME``, or its ``Path``); a folder
            written by ``save_pretrained``; a ``.safetensors`` file that contains its configuration;
            a checkpoint of ``moceir train``, of which the averaged weights are read; what
            ``load_published`` reads; or ``user/repository`` on the Hugging Face Hub, whose
            ``model.safetensors`` is downloaded once. A local file or folder of that name takes
            precedence.

    Raises:
        WeightsError: nothing has that name, or the weights cannot be used or downloaded.
    """
    path = Path(source)
    named = isinstance(source, str) or not path.exists()
    if named and str(source) in BUNDLED:
        return load_weights(bundled_path(str(source)))
    if named and str(source) == TOGETHER:
        raise WeightsError(
            f"{source}: several networks: name one of them, {', '.join(BUNDLED)}, or leave them to "
            "moceir restore and Restorer()"
        )
    if _is_hub_name(str(source)):
        path = _from_hub(str(source))
    if path.is_dir():
        path = path / constants.SAFETENSORS_SINGLE_FILE
    if not path.exists():
        raise WeightsError(
            f"{source or repr('')}: no such weights; give a file, a folder with model.safetensors, "
            f"bundled weights ({', '.join(BUNDLED)}), or user/repository on the Hugging Face Hub"
        )
    try:
        ours = path.suffix == ".safetensors" and has_configuration(path)
        return load_weights(path) if ours else load_published(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None


def _is_hub_name(source: str) -> bool:
    """Whether ``user/repository`` is meant, and not a file or folder that was mistyped."""
    user, _, name = source.partition("/")
    return (
        bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source))
        and not Path(user).exists()
        and Path(name).suffix not in (*SUFFIXES, ".bin")
    )


def _from_hub(name: str) -> Path:
    """The weights file of a repository, in the Hub's cache on this machine."""
    try:
        return Path(hf_hub_download(name, constants.SAFETENSORS_SINGLE_FILE))
    except LocalEntryNotFoundError:
        reason = (
            "nor were they downloaded before, and the Hugging Face Hub cannot be reached: connect "
            "to the network, or name a file"
        )
    except EntryNotFoundError:
        reason = (
            "and that repository on the Hugging Face Hub has no "
            f"{constants.SAFETENSORS_SINGLE_FILE}"
        )
    except GatedRepoError:
        reason = (
            "and on the Hugging Face Hub they are gated: request access there, then run "
            "`hf auth login`"
        )
    except RepositoryNotFoundError:
        reason = (
            "nor is there such a repository on the Hugging Face Hub, or it is private: check the "
            "name, or `hf auth login`"
        )
    except (OSError, ValueError) as error:
        reason = f"and they cannot be downloaded from the Hugging Face Hub ({first_line(error)})"
    raise WeightsError(f"{name}: no such weights here, {reason}")


def save_weights(model: MoCEIR, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a network to one file, atomically. Its folder is made.

    Args:
        dtype: of the stored tensors; the network's own if None.

    Raises:
        OSError: the file cannot be written.
    """
    write_weights(model.config, model.state_dict(), path, dtype)


def load_weights(path: str | Path) -> MoCEIR:
    """Read a file of ``save_weights`` into a new float32 network in evaluation mode.

    Raises:
        WeightsError: not such a file, truncated, or its tensors do not fit its configuration.
        OSError: the file cannot be opened.
    """
    config, tensors = read_weights(Path(path))
    try:
        return MoCEIR.with_weights(config, tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def load_published(
    source: str | Path | Mapping[str, Tensor], config: MoCEIRConfig | None = None
) -> MoCEIR:
    """A network, in evaluation mode, with published weights, strictly.

    Args:
        source: a file, read without running any pickled code: a Lightning checkpoint, a dictionary
            with ``params_ema``, ``state_dict``, ``model`` or ``params``, a bare state_dict, or
            safetensors; or the state_dict itself. Wrapper prefixes (``net.``, ``module.``,
            ``_orig_mod.`` and the like) are removed, and tensors without that prefix are ignored.
        config: the network; None: inferred from the tensors, with top_k 1. Tensors with the
            names of this package need it, but for a checkpoint of ``moceir train``, which has it.

    Raises:
        WeightsError: not such a file, truncated, or a missing, surplus or misshapen tensor, or one
            that is not finite.
        OSError: the file cannot be opened.
    """
    where = ""
    if isinstance(source, (str, Path)):
        where = f"{source}: "
        source, stored = read_checkpoint(Path(source))
        config = config or stored
    try:
        theirs = of_network(source, PUBLISHED)
        if theirs is None:
            return _of_our_names(source, config)
        config = config or published.infer_config(theirs)
        with torch.device("meta"):
            own = MoCEIR(config).state_dict()
        return MoCEIR.with_weights(config, published.from_published(theirs, config, own))
    except WeightsError as error:
        raise WeightsError(f"{where}{error}") from None


def _of_our_names(state: Mapping[str, Tensor], config: MoCEIRConfig | None) -> MoCEIR:
    ours = of_network(state, OURS)
    if ours is None:
        raise WeightsError(
            f"not the weights of a published MoCE-IR: no tensor is named {PUBLISHED}, with or "
            f"without a prefix; there are {', '.join(key[:60] for key in list(state)[:5])}"
        )
    if config is None:
        raise WeightsError(
            "tensors of this package's network, without its configuration: write the network with "
            "moceir.model.save_weights, or give load_published the configuration"
        )
    return MoCEIR.with_weights(config, current_names(ours))


def to_published(model: MoCEIR) -> dict[str, Tensor]:
    """The published code's state_dict of a network.

    Raises:
        WeightsError: ``expert_path``, which the published code does not have.
    """
    state = published.to_published(model.config, model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, Router):
            state[published.complexity_key(name)] = module.complexity_bias.clone()
    return state


def save_published(model: MoCEIR, path: Path) -> None:
    """Write a checkpoint for the published code: Lightning's for ``.ckpt``, else a state_dict. Its
    folder is made.

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
    make_folder(path.parent)
    with whole_file(path) as temporary:
        torch_save(content, temporary)
