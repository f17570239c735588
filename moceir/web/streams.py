"""Long work as an answer that is sent while it is done, and that ends with its reader."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from moceir.errors import MoceirError, first_line

_LOG = logging.getLogger("uvicorn.error")

PIECE = 2**20
"""Bytes of a file that are sent at a time."""


class Gone(Exception):
    """Nobody reads the answer any more."""


class Progress:
    """What work in a thread uses to report to whoever waits for it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._gone = threading.Event()

    def check(self) -> None:
        """Raises Gone if nobody waits any more."""
        if self._gone.is_set():
            raise Gone

    def tell(self, **message: Any) -> None:
        """Send a line of JSON. Raises Gone."""
        self.check()
        self._put(json.dumps(message).encode() + b"\n")

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._gone.set()

    async def messages(self) -> AsyncIterator[Any]:
        """What the work tells, until it ends."""
        while (message := await self._messages.get()) is not None:
            yield message

    def run(self, work: Callable[[Progress], bytes]) -> None:
        """Do the work: tell what it returns, or the MoceirError that it raises. What else it raises
        is logged, and told as one."""
        try:
            file = work(self)
            for start in range(0, len(file), PIECE):
                self._put(file[start : start + PIECE])
        except Gone:
            pass
        except MoceirError as error:  # raised again by whoever waits
            self._put(error)
        except BaseException as error:  # a panic of Rust is no Exception
            _LOG.exception("work for an answer failed")
            self._put(MoceirError(f"failed unexpectedly ({first_line(error)})"))
        finally:
            self._put(None)

    def _put(self, message: Any) -> None:
        self._loop.call_soon_threadsafe(self._messages.put_nowait, message)


async def answer_while_working(request: Request, work: Callable[[Progress], bytes]) -> Response:
    """Run work in a thread and send what it tells: lines of JSON, then the file that it returns.

    An error before the first message is raised here. A later one, which has no status code to be
    told by, becomes a line ``{"error": "..."}``. If the connection is lost, ``Progress`` raises
    Gone in the work.

    Args:
        request: whose body has been read.
    """
    progress = Progress()
    watch = asyncio.create_task(_wait_for_the_end(request, progress))
    job = asyncio.create_task(run_in_threadpool(progress.run, work))
    messages = progress.messages()
    first = await anext(messages, b"")
    if isinstance(first, MoceirError):
        watch.cancel()
        raise first

    async def body() -> AsyncIterator[bytes]:
        try:
            yield first
            async for message in messages:
                if isinstance(message, MoceirError):
                    message = json.dumps({"error": str(message)}).encode() + b"\n"
                yield message
            await job
        finally:
            progress.give_up()
            watch.cancel()

    return StreamingResponse(body(), media_type="application/octet-stream")


async def _wait_for_the_end(request: Request, progress: Progress) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    progress.give_up()
