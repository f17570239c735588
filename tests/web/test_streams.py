"""Work that is told about while it is done, and ends with its reader: in a server of this process,
whose network is one that the tests hold in their hands."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moce_kernels.failures import BackendUnavailableError
from moceir.errors import PictureError
from moceir.inference.restorer import Restorer
from moceir.inference.results import Run
from tests.small_network import restorer
from tests.web.served import encoded

uvicorn = pytest.importorskip("uvicorn", reason="needs pip install 'moceir[app]'")
pytest.importorskip("starlette", reason="needs pip install 'moceir[app]'")

__all__ = ["restorer"]

PATIENCE = 60
"""Seconds after which a test has failed that waits for another thread."""

Work = Callable[[Callable[[int, int], None]], None]


@contextmanager
def served(restorer: Restorer, monkeypatch: pytest.MonkeyPatch, work: Work) -> Iterator[int]:
    """The port of the application, whose network calls ``work(progress)`` and changes nothing."""
    from moceir.web.app import build, listen

    def restore_pixels(pixels: np.ndarray, **settings: Any) -> tuple[np.ndarray, Run]:
        work(settings["progress"])
        return pixels, Run(0, 0, ((1,),), ())

    monkeypatch.setattr(restorer, "restore_pixels", restore_pixels)
    with listen(0) as open_socket:
        config = uvicorn.Config(build(restorer), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [open_socket]})
        thread.start()
        try:
            yield open_socket.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def request(port: int) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/restore?name=a.png", encoded(Image.new("RGB", (9, 9))))
    return connection


def cut(connection: HTTPConnection) -> None:
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def test_a_lost_connection_frees_the_network_within_a_tile(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, lost, ended = threading.Event(), threading.Event(), threading.Event()

    def work(progress: Callable[[int, int], None]) -> None:
        if started.is_set():
            return  # the second request
        started.set()
        try:
            # Without an end of its own, but for one that fails the test.
            for done in range(10_000_000):
                progress(done, 10_000_000)
                assert not ended.wait(0.001)
        finally:
            lost.set()

    with served(restorer, monkeypatch, work) as port:
        first = request(port)
        assert started.wait(PATIENCE)
        cut(first)
        assert lost.wait(PATIENCE)
        assert request(port).getresponse().status == 200
        ended.set()


def test_who_gives_up_while_waiting_never_reaches_the_network(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go = threading.Event(), threading.Event()
    calls = []

    def work(progress: Callable[[int, int], None]) -> None:
        calls.append(1)
        running.set()
        assert go.wait(PATIENCE)

    with served(restorer, monkeypatch, work) as port:
        first = request(port)
        assert running.wait(PATIENCE)
        cut(request(port))
        # Answered after the connection above was lost: the server knows of it by now.
        probe = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for _ in range(3):
            probe.request("GET", "/page.css")
            probe.getresponse().read()
        probe.close()
        go.set()
        assert first.getresponse().status == 200
        assert request(port).getresponse().status == 200
    assert len(calls) == 2


def test_who_gives_up_while_waiting_holds_no_thread(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go = threading.Event(), threading.Event()

    def work(progress: Callable[[int, int], None]) -> None:
        running.set()
        assert go.wait(PATIENCE)

    with served(restorer, monkeypatch, work) as port:
        first = request(port)
        assert running.wait(PATIENCE)
        waiting = [request(port) for _ in range(50)]  # more than there are threads
        for connection in waiting:
            cut(connection)
        # Which needs a thread, but not the network.
        probe = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        probe.request("POST", "/degrade", encoded(Image.new("RGB", (9, 9))))
        assert probe.getresponse().status == 200
        probe.close()
        go.set()
        assert first.getresponse().status == 200


def test_an_error_after_the_first_tile_is_the_last_line(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(progress: Callable[[int, int], None]) -> None:
        progress(0, 2)
        raise PictureError("too little memory for the second tile")

    with served(restorer, monkeypatch, work) as port:
        answer = request(port).getresponse()
        lines = [json.loads(line) for line in answer.read().splitlines()]
    assert answer.status == 200
    message = "a.png: too little memory for the second tile"
    assert lines == [{"done": 0, "tiles": 2}, {"error": message}]


class Panic(BaseException):
    """As those of Rust."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "a.png: too little memory"),
        (RuntimeError("no kernel\nadvice"), "a.png: no kernel"),
        (ZeroDivisionError("by zero"), "failed unexpectedly (by zero)"),
        (BackendUnavailableError("no kernel\nset this"), "a.png: no kernel\nset this"),
        (Panic(), "failed unexpectedly (Panic)"),
    ],
)
def test_whatever_is_raised_ends_the_answer_with_a_reason(
    restorer: Restorer,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    message: str,
) -> None:
    tiles = [1]

    def work(progress: Callable[[int, int], None]) -> None:
        for tile in tiles:
            progress(0, tile)
        raise error

    with served(restorer, monkeypatch, work) as port:
        lines = [json.loads(line) for line in request(port).getresponse().read().splitlines()]
        assert lines == [{"done": 0, "tiles": 1}, {"error": message}]
        tiles.clear()
        answer = request(port).getresponse()
        assert (answer.status, answer.read()) == (400, message.encode())


def test_an_error_before_the_first_tile_has_a_status_of_its_own(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(progress: Callable[[int, int], None]) -> None:
        raise PictureError("too little memory")

    with served(restorer, monkeypatch, work) as port:
        answer = request(port).getresponse()
        assert (answer.status, answer.read()) == (400, b"a.png: too little memory")


def test_progress_is_sent_before_the_work_is_done(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def work(progress: Callable[[int, int], None]) -> None:
        progress(0, 2)
        assert go.wait(PATIENCE)
        progress(1, 2)

    with served(restorer, monkeypatch, work) as port:
        answer = request(port).getresponse()
        assert json.loads(answer.readline()) == {"done": 0, "tiles": 2}
        go.set()
        assert json.loads(answer.readline()) == {"done": 1, "tiles": 2}
