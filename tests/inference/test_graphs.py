"""Which shapes are captured and kept; that a replay equals the function only a GPU can show
(``python -m bench.lease OUT``)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
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
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(done, "default"))
    return done


class Stream:
    def __init__(self, done: list[str], name: str) -> None:
        self.done, self.name = done, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]

    def wait_stream(self, other: Stream) -> None:
        self.done.append(f"{self.name} waits for {other.name}")


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


def test_streams_wait_for_one_another(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs have their memory together: two must not run at the same time."""
    network = replayed(log)
    for _ in range(3):
        network(image(8))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(log, "own"))
    log.clear()
    for _ in range(2):
        network(image(8))
    assert log == ["own waits for default", "replay 8", "replay 8"]


def test_captures_one_at_a_time_each_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole process, whatever is captured; and meanwhile PyTorch's cache stays as it is."""
    under_way, most, streams, emptied = threading.Semaphore(1), [0], [], []
    both = threading.Barrier(2)

    @contextlib.contextmanager
    def graph(graph: object, *, pool: object, stream: Any, **more: object) -> Iterator[None]:
        assert under_way.acquire(blocking=False)
        streams.append(stream)
        yield
        under_way.release()

    def empty_cache() -> None:
        assert under_way.acquire(blocking=False)
        emptied.append(True)
        under_way.release()

    def function(images: Tensor) -> tuple[Tensor, ...]:
        most[0] += 1
        threading.Event().wait(0.05)
        return (images,)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ("stream of", device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "default")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    graphs._stream.cache_clear()

    def work() -> None:
        both.wait()
        graphs.capture(function, image(8), "pool")
        graphs.empty_cache()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    graphs._stream.cache_clear()
    assert most == [2] and len(emptied) == 2
    assert streams == [("stream of", torch.device("cpu"))] * 2


def test_a_graph_that_cannot_be_made_leaves_the_stream_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = ["default"]

    @contextlib.contextmanager
    def stream(name: str) -> Iterator[None]:
        before, current[0] = current[0], name
        try:
            yield
        finally:
            current[0] = before

    @contextlib.contextmanager
    def graph(graph: object, *, stream: str, **more: object) -> Iterator[None]:
        current[0] = stream  # as PyTorch's, which does not come to its end if this fails:
        yield
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "own")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    graphs._stream.cache_clear()
    with pytest.raises(RuntimeError, match="out of memory"):
        graphs.capture(lambda images: (images,), image(8), "pool")
    graphs._stream.cache_clear()
    assert current == ["default"]
