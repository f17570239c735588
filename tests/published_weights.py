"""The weights behind the golden files: every tensor is filled from its published name."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moceir.config import MoCEIRConfig, preset

GOLDEN = Path(__file__).parent / "golden"

TINY = MoCEIRConfig(
    dim=16,
    num_blocks=(1, 1, 1, 1),
    num_dec_blocks=(1, 1, 1),
    num_refinement_blocks=1,
    routing_noise="never",
)
CONFIGS = {"tiny": TINY, "small": preset("moce_ir_s"), "base": preset("moce_ir")}


def golden(name: str) -> dict[str, Tensor]:
    """The arrays of a golden file."""
    with np.load(GOLDEN / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def shapes(name: str) -> dict[str, list[int]]:
    """Name and shape of every tensor of a published state_dict."""
    return json.loads((GOLDEN / f"official_state_dict_{name}.json").read_text())


def filled(of: Mapping[str, list[int] | tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these names and shapes, as the golden files were made with."""
    return {name: _fill(name, tuple(shape)) for name, shape in of.items()}


def _fill(name: str, shape: tuple[int, ...]) -> Tensor:
    if name == "freq_embed.high_conv.0.conv.weight":
        laplacian = torch.full(shape, -1.0)
        laplacian[:, :, 1, 1] = 8.0
        return laplacian
    random = np.random.default_rng(zlib.crc32(name.encode()))
    a = random.standard_normal(shape, dtype=np.float32)
    if name.endswith(("temperature", "body.weight")):
        a = 1 + 0.1 * a
    elif len(shape) >= 2:
        a = a / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    else:
        a = 0.05 * a
    return torch.from_numpy(a.astype(np.float32))
