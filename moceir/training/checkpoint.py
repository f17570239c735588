"""Checkpoints that are never half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from moceir.errors import CheckpointError
from moceir.files import whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and replaces it at the end; reads without running pickle."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
            raise CheckpointError(
                f"{path}: cannot be written ({error}); the checkpoint before it is untouched. "
                "Free some disk space and start the same command again"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
