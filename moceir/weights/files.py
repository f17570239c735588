"""Weights files: safetensors with the configuration inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.files import make_folder, whole_file
from moceir.weights.names import current_names

SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")
"""Of files with weights: ours, and the published code's."""

CONFIGURATION = "moceir.config"
"""The key of the configuration in a file's metadata."""


def write_weights(
    config: MoCEIRConfig,
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a configuration and its tensors to one file, atomically. Its folder is made.

    Args:
        dtype: of the stored tensors; their own if None.

    Raises:
        OSError: the file cannot be written.
    """
    stored = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()}
    metadata = {"format": "pt", CONFIGURATION: json.dumps(config.to_dict())}
    # Into the existing file: save_file would replace it with one that has other permissions.
    content = save(stored, metadata)
    make_folder(path.parent)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def torch_save(content: object, path: Path) -> None:
    """``torch.save``, which by itself says of a full disk only where its writer was.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def check_file(path: Path) -> None:
    """Raises WeightsError for a folder, pipe or device: reading from a pipe may never end."""
    if path.exists() and not path.is_file():
        raise WeightsError(
            f"{path}: a folder, pipe or device; copy the weights to a file and name that"
        )


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of any safetensors file. Values are read when they are used.

    Raises:
        WeightsError: not such a file, or truncated.
        OSError: the file cannot be opened.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error})") from None


def has_configuration(path: Path) -> bool:
    """Whether a safetensors file is one of ``write_weights``.

    Raises:
        WeightsError, OSError: as ``read_safetensors``.
    """
    return CONFIGURATION in read_safetensors(path)[0]


def read_weights(path: Path) -> tuple[MoCEIRConfig, dict[str, Tensor]]:
    """The configuration and the tensors in a file of ``write_weights``, of any version.

    Raises:
        WeightsError: not such a file, or truncated.
        OSError: the file cannot be opened.
    """
    metadata, tensors = read_safetensors(path)
    if CONFIGURATION not in metadata:
        raise WeightsError(
            f"{path}: contains no MoCE-IR configuration; read published weights with "
            "load_published, or convert them with `moceir convert`"
        )
    try:
        config = MoCEIRConfig.from_dict(json.loads(metadata[CONFIGURATION]))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: its configuration cannot be used ({error})") from None
    return config, current_names(tensors)
