"""Checkpoints from torch.save, in the forms found in practice."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moceir.config import MoCEIRConfig, preset
from moceir.errors import WeightsError, first_line
from moceir.weights.files import check_file, read_safetensors
from moceir.weights.pickles import check_tuples, is_archive

CONTAINERS = ("params_ema", "state_dict", "model", "params")
"""Entries of checkpoints that hold a state_dict; the first that is there is read. BasicSR writes
``params`` and, averaged, ``params_ema``."""

PUBLISHED, OURS = "patch_embed.proj.weight", "stem.weight"
"""The name of the first convolution in the published code and here. What is before it is the prefix
of the network's tensors."""


class Checkpoint(NamedTuple):
    """A network's tensors and, if known, its configuration, as read from a file."""

    state: Mapping[str, Tensor]
    """By the names that the file has for them."""
    config: MoCEIRConfig | None
    """Of a checkpoint of ``moceir train``."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors in a checkpoint, a file with a bare state_dict, or a safetensors file.

    Of a checkpoint of ``moceir train`` these are the averaged weights. No pickled code is run, and
    nothing is read that is larger than the file.

    Raises:
        WeightsError: not such a file, or truncated.
        OSError: the file cannot be opened.
    """
    check_file(path)
    if path.suffix == ".safetensors":
        return Checkpoint(read_safetensors(path)[1], None)
    _check_archive(path)
    try:
        check_tuples(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a checkpoint, or it contains more than tensors and plain values and "
            "could run code when loaded; save only its state_dict and load that "
            f"({_reason(error)})"
        ) from None
    except Exception as error:  # a truncated archive raises whatever its reader trips over
        # The reader of a file of another kind says a number or nothing.
        reason = f" ({said})" if " " in (said := first_line(error)) else ": is it another file?"
        raise WeightsError(f"{path}: not a complete checkpoint{reason}") from None
    state = content
    if isinstance(content, Mapping):
        names = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
        state = content[names[0]] if names else content
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise WeightsError(
            f"{path}: contains no state_dict (a mapping of names to tensors), neither on its own "
            f"nor as {', '.join(CONTAINERS)}{_entries(content)}"
        )
    if sum(t.numel() * t.element_size() for t in state.values()) > path.stat().st_size:
        raise WeightsError(
            f"{path}: its tensors are larger than the file because they share memory; save copies "
            "of them: torch.save({k: t.clone() for k, t in state_dict.items()}, path)"
        )
    try:
        return Checkpoint(state, _config(content))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its configuration cannot be used ({error})") from None


def _reason(error: pickle.UnpicklingError) -> str:
    """Without torch's advice to read the file all the same."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2]
    return (text.splitlines() or [""])[0].partition(" Please ")[0][:200] or "no pickle"


def _check_archive(path: Path) -> None:
    """Raises for a zip file whose entries are larger than it is; torch.save does not compress."""
    if not is_archive(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise WeightsError(f"{path}: not a complete checkpoint ({error})") from None
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(
            f"{path}: its entries are compressed, which torch.save does not do; if you trust the "
            "file, save it again: torch.save(torch.load(path, weights_only=True), path)"
        )


def _entries(content: Any) -> str:
    if not isinstance(content, Mapping) or not content:
        return ""
    shown = ", ".join(str(key)[:40] for key in list(content)[:8])
    return f"; it has {shown}: save only the entry with the weights, using torch.save"


def _config(content: Any) -> MoCEIRConfig | None:
    """The network's configuration in a checkpoint of ``moceir train``."""
    if not isinstance(content, Mapping) or "training_config" not in content:
        return None
    training = content["training_config"]
    return preset(training["preset"]).replace(**training["model"])


def of_network(state: Mapping[str, Tensor], first: str) -> dict[str, Tensor] | None:
    """The tensors of the network, without the prefixes that wrappers give them.

    These are ``net.`` and ``model.`` of Lightning modules, ``module.`` of DataParallel,
    ``_orig_mod.`` of torch.compile, and any other. Tensors of other modules, such as a loss, have
    another prefix and are left out.

    Args:
        first: ``PUBLISHED`` or ``OURS``.

    Returns:
        None if no tensor is named so.

    Raises:
        WeightsError: there are several networks.
    """
    state = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    prefixes = [key.removesuffix(first) for key in state if f".{key}".endswith(f".{first}")]
    if not prefixes:
        return None
    if len(prefixes) > 1 and "" not in prefixes:
        raise WeightsError(
            f"tensors of {len(prefixes)} networks, with the prefixes {', '.join(prefixes[:8])}: "
            "keep those of one, for example {k: t for k, t in state.items() if "
            f"k.startswith({prefixes[0]!r})}}"
        )
    prefix = "" if "" in prefixes else prefixes[0]
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
