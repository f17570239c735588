"""The routes of pictures, without the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import moceir
from moceir.data.degradations import degrade, parse
from moceir.errors import ConfigError
from moceir.evaluation.routes import count_routes
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_tensor
from tests.evaluation.test_cost import SMALL
from tests.evaluation.trees import picture, published


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    torch.manual_seed(0)
    return Restorer(MoCEIR(SMALL), device="cpu")


def test_pictures_are_degraded_in_every_way(tmp_path: Path, restorer: Restorer) -> None:
    """A folder counts with its pictures; kinds that differ by a parameter are kept apart."""
    paths = [picture(tmp_path / f"{i}.png", seed=i) for i in range(2)]
    kinds = ["noise:sigma=5", "noise:sigma=50"]
    counts = moceir.routes(restorer, [tmp_path], kinds=kinds, seed=3)
    assert list(counts) == kinds
    for kind, table in counts.items():
        assert table.shape == (3, 4) and table.sum(1).tolist() == [2, 2, 2]
        images = [to_tensor(open_rgb(path))[None] for path in paths]
        degraded = [degrade(image, parse(kind), 3, i)[0] for i, image in enumerate(images)]
        assert torch.equal(table, count_routes(restorer, degraded))
    assert len(moceir.routes(restorer, [str(paths[0])])) == 8


def test_benchmarks_are_taken_as_they_are(tmp_path: Path, restorer: Restorer) -> None:
    found = moceir.benchmarks(["rain100l", "sots"], published(tmp_path))
    counts = moceir.routes(restorer, benchmarks=found)
    assert {name: int(table[0].sum()) for name, table in counts.items()} == {
        "rain100l": 2,
        "sots": 1,
    }
    (rain, _) = found
    images = [to_tensor(open_rgb(pair.degraded))[:, 2:-2, 4:-4] for pair in rain.pairs]
    assert torch.equal(counts["rain100l"], count_routes(restorer, images))


def test_of_nothing_or_of_both() -> None:
    with pytest.raises(ConfigError, match="images, or benchmarks"):
        moceir.routes()
