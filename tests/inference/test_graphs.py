"""Which shapes are captured and kept; that a replay equals the function only a GPU can show
(``python -m bench.lease OUT``)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moceir.inference import graphs


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done: run, capture or replay, and the side of the images."""
    done: list[str] = []

    def capture(function: graphs.Function, images: Tensor, pool: Any) -> graphs.Function:
        assert pool == "pool"
        side = images.shape[-1]
        done.append(f"capture {side}")

        def replay(images: Tensor) -> tuple[Tensor, ...]:
            assert images.shape[-1] == side
            done.append(f"replay {side}")
            return (images + 1,)

        return replay

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    return done


def replayed(log: list[str]) -> graphs.Replayed:
    def function(images: Tensor) -> tuple[Tensor, ...]:
        log.append(f"run {images.shape[-1]}")
        return (images + 1,)

    return graphs.Replayed(function)


def image(side: int) -> Tensor:
    return torch.zeros(1, 3, side, side)


def test_captured_at_the_second_call(log: list[str]) -> None:
    network = replayed(log)
    for _ in range(3):
        (result,) = network(image(8))
        assert result.eq(1).all()
    assert log == ["run 8", "capture 8", "replay 8", "replay 8"]


def test_shape_strides_and_dtype_tell_apart(log: list[str]) -> None:
    network = replayed(log)
    network(image(8))
    network(image(8).to(memory_format=torch.channels_last))
    network(image(8).half())
    network(image(9))
    assert log == ["run 8", "run 8", "run 8", "run 9"]


def test_the_oldest_go(log: list[str]) -> None:
    network = replayed(log)
    sides = range(8, 8 + graphs.LIMIT + 1)
    for side in sides:
        network(image(side))
        network(image(side))
    log.clear()
    network(image(sides[-1]))
    network(image(sides[0]))
    network(image(sides[2]))
    assert log == [f"replay {sides[-1]}", f"run {sides[0]}", f"replay {sides[2]}"]


def test_release(log: list[str]) -> None:
    network = replayed(log)
    network(image(8))
    assert not network.release()
    network(image(8))
    network(image(8))
    assert network.release()
    log.clear()
    network(image(8))
    assert log == ["run 8"]
