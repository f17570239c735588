"""Checkpoints, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moceir.errors import CheckpointError, first_line
from moceir.files import make_folder, whole_file
from moceir.weights.files import torch_save
from moceir.weights.pickles import check_tuples


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write beside the old checkpoint and replace it at the end.

    Raises:
        CheckpointError: it cannot be written; the one before stays.
    """
    try:
        make_folder(path.parent)
        with whole_file(path) as temporary:
            torch_save(checkpoint, temporary)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); the checkpoint before it is "
            "untouched. Free some disk space and start the same command again"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the host, without running pickled code.

    Raises:
        CheckpointError: it cannot be read, or is none of a training run.
    """
    try:
        check_tuples(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({first_line(error)}); restore it from a copy, "
            "or delete it to start over"
        ) from error
    if not isinstance(checkpoint, dict) or not (
        isinstance(checkpoint.get("global_step"), int)
        and isinstance(checkpoint.get("training_config"), dict)
    ):
        raise CheckpointError(
            f"{path}: not a checkpoint of moceir train; choose another --run, and name weights to "
            "start from with --weights"
        )
    return checkpoint
