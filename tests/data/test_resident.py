"""Pictures on the device and patches that are cut there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moceir.data.patches import FilePatches
from moceir.data.resident import ResidentPatches, fit
from moceir.data.samples import CleanPictures
from moceir.errors import PictureError
from moceir.pictures.images import find_pictures

SIZES = ((40, 30), (30, 40), (16, 16), (25, 9), (5, 7))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def samples(folder: Path) -> CleanPictures:
    return CleanPictures(tuple(find_pictures(folder)), ("noise", "haze"))


def test_patches_are_those_of_files(folder: Path) -> None:
    """All pictures, places, flips and turns; also of pictures smaller than the crop."""
    files = FilePatches(samples(folder), 16, seed=3)
    resident = ResidentPatches(samples(folder), 16, seed=3)
    device = torch.device("cpu")
    numbers = [*range(300), 10**12]
    found = resident.batch(resident.read(numbers), device)
    expected = files.batch(files.read(numbers), device)
    assert found.clean.shape == (301, 3, 16, 16) and found.clean.dtype == torch.float32
    assert torch.equal(found.clean, expected.clean)
    assert torch.equal(found.degraded, expected.degraded) and found.labels == expected.labels
    alone = resident.batch(resident.read([7]), device)
    assert torch.equal(alone.clean, found.clean[7:8])


def test_what_fits(folder: Path) -> None:
    paths = find_pictures(folder)
    assert fit(paths, 16, 1)
    assert not fit(paths, 16, 0)
    assert not fit(paths, 512, 3)  # each picture is made as large as the crop


def test_an_unreadable_picture_is_named(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"text")
    with pytest.raises(PictureError, match=r"bad\.png"):
        fit(sorted(folder.iterdir()), 16, 1)
    resident = ResidentPatches(samples(folder), 16, seed=0)
    with pytest.raises(PictureError, match=r"bad\.png"):
        resident.batch(resident.read([0]), torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_cuts_the_same_and_is_not_waited_for(folder: Path) -> None:
    resident = [ResidentPatches(samples(folder), 16, seed=0) for _ in range(2)]
    read = resident[0].read(range(50))
    expected = resident[0].batch(read, torch.device("cpu"))
    there = torch.device("cuda")
    resident[1].batch(read, there)  # the pictures are decoded
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = resident[1].batch(read, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.clean.cpu(), expected.clean)
