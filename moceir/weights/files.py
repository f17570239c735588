"""Weights files: safetensors with the configuration inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.files import whole_file


def write_weights(
    config: MoCEIRConfig,
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a configuration and its tensors to one file, whole or not at all.

    Args:
        dtype: of the stored tensors; their own if None.

    Raises:
        OSError: the file cannot be written.
    """
    stored = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()}
    metadata = {"format": "pt", "moceir.config": json.dumps(config.to_dict())}
    with whole_file(path) as temporary:
        try:
            save_file(stored, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error


def read_weights(path: Path) -> tuple[MoCEIRConfig, dict[str, Tensor]]:
    """The configuration and the tensors in a file of ``write_weights``.

    Raises:
        WeightsError: not such a file, or truncated.
        OSError: the file cannot be opened.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error})") from None
    if "moceir.config" not in metadata:
        raise WeightsError(
            f"{path}: has no MoCE-IR configuration inside; published weights are read by "
            "load_published, or turned into such a file by `moceir convert`"
        )
    try:
        config = MoCEIRConfig.from_dict(json.loads(metadata["moceir.config"]))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: its configuration cannot be used ({error})") from None
    return config, tensors
