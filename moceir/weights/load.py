"""Weights by whatever names them: a bundled name, a folder, a file."""

from __future__ import annotations

from pathlib import Path

from moceir.errors import WeightsError
from moceir.model import MoCEIR
from moceir.weights.bundled import BUNDLED, bundled_path
from moceir.weights.files import load_weights
from moceir.weights.published import load_published


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
