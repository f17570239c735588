"""Weights files: safetensors with the configuration inside."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.files import whole_file
from moceir.model import MoCEIR
from moceir.weights.state import load_state


def save_weights(model: MoCEIR, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a network to one file, whole or not at all.

    Args:
        dtype: of the stored tensors; the network's own if None.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in model.state_dict().items()
    }
    metadata = {"format": "pt", "moceir.config": json.dumps(model.config.to_dict())}
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error


def load_weights(path: Path) -> MoCEIR:
    """Read a file of ``save_weights`` into a new float32 network in evaluation mode.

    Raises:
        WeightsError: not such a file, truncated, or its tensors do not fit its configuration.
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
    model = MoCEIR(config)
    try:
        load_state(model, tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return model.eval()
