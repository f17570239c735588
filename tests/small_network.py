"""A network small enough for tests of what is around it, and pictures for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from moceir.commands.main import main
from moceir.config import MoCEIRConfig
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR, save_weights

SMALLEST = MoCEIRConfig(
    dim=8,
    num_blocks=(1, 1),
    num_dec_blocks=(1,),
    num_refinement_blocks=1,
    heads=(1, 1),
)


@pytest.fixture(scope="session")
def restorer() -> Restorer:
    torch.manual_seed(0)
    return Restorer(MoCEIR(SMALLEST), device="cpu")


@pytest.fixture(scope="session")
def weights(restorer: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "smallest.safetensors"
    save_weights(restorer.model, path)
    return path


Restore = Callable[..., Result]


@pytest.fixture
def restore(weights: Path) -> Restore:
    """``moceir restore WORDS`` with a small network; ``before`` are words for moceir itself."""

    def run(*words: object, before: tuple[str, ...] = (), stdin: bytes | None = None) -> Result:
        words = (*before, "restore", "-m", weights, "--device", "cpu", *words)
        return CliRunner().invoke(main, [str(word) for word in words], input=stdin)

    return run


def picture(path: Path, width: int = 24, height: int = 16, mode: str = "RGB") -> Path:
    """Writes a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(width, height).convert(mode).save(path)
    return path


def noise(width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
