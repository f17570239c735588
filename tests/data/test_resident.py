"""Pictures on the device and patches that are cut there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moceir.data.crops import CleanPatches
from moceir.data.resident import ResidentPatches, fit
from moceir.errors import PictureError

SIZES = ((40, 30), (30, 40), (16, 16), (25, 9), (5, 7))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def test_patches_are_those_of_clean_patches(folder: Path) -> None:
    """All pictures, places, flips and turns; also of pictures smaller than the crop."""
    clean = CleanPatches(folder, crop=16, seed=3)
    resident = ResidentPatches(clean.paths, 16, 3, torch.device("cpu"))
    numbers = [*range(300), 10**12]
    patches = resident(numbers)
    assert patches.shape == (301, 3, 16, 16) and patches.dtype == torch.uint8
    assert torch.equal(patches, torch.stack([clean[i] for i in numbers]))
    assert torch.equal(resident([7]), patches[7:8])


def test_what_fits(folder: Path) -> None:
    paths = CleanPatches(folder, crop=16, seed=0).paths
    assert fit(paths, 16, 1)
    assert not fit(paths, 16, 0)
    assert not fit(paths, 512, 3)  # each picture is made as large as the crop


def test_an_unreadable_picture_is_named(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"text")
    paths = sorted(folder.iterdir())
    with pytest.raises(PictureError, match=r"bad\.png"):
        fit(paths, 16, 1)
    with pytest.raises(PictureError, match=r"bad\.png"):
        ResidentPatches(paths, 16, 0, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_cuts_the_same_and_is_not_waited_for(folder: Path) -> None:
    paths = CleanPatches(folder, crop=16, seed=0).paths
    expected = ResidentPatches(paths, 16, 0, torch.device("cpu"))(range(50))
    there = ResidentPatches(paths, 16, 0, torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        patches = there(range(50))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(patches.cpu(), expected)
