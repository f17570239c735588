"""Checkpoints, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moceir.errors import CheckpointError
from moceir.files import whole_file


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write beside the old checkpoint and replace it at the end.

    Raises:
        CheckpointError: it cannot be written; the one before stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
        raise CheckpointError(
            f"{path}: cannot be written ({error}); the checkpoint before it is untouched. "
            "Free some disk space and start the same command again"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the host, without running pickled code.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
