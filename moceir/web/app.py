"""A local web page around a Restorer: the command ``moceir app``.

The server answers four fixed addresses and two requests that carry an image. It opens no file by a
name it is given, stores no image, and listens only on this computer.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO
from string import Template
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from moceir.config import MoCEIRConfig
from moceir.data.degradations import KINDS, degrade_picture, parse
from moceir.errors import ConfigError, MoceirError, PictureError
from moceir.inference.restorer import Restorer, Run
from moceir.pictures.codec import Picture, decode, encode, size_in
from moceir.web import pages

N = TypeVar("N")
D = TypeVar("D")

HOST = "127.0.0.1"
MAX_BYTES = 100_000_000
MAX_PIXELS = 50_000_000

MIXTURES = ("haze,rain", "low_light,noise")
"""Mixtures that the page offers in addition to the single kinds."""

_ASSETS = {"page.css": "text/css", "slider.js": "text/javascript", "app.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def listen(port: int) -> socket.socket:
    """A socket that listens on this computer; port 0 takes a free one.

    Raises:
        ConfigError: the port is in use, or this user may not open it.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A port that was just released is free.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
        server.listen()
    except (OSError, OverflowError) as error:
        server.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is in use by another program" if taken else f"cannot be used ({error})"
        raise ConfigError(f"port {port} {reason}: choose another", "port") from error
    return server


def serve(restorer: Restorer, server: socket.socket) -> None:
    """Answer on a socket of ``listen`` until Ctrl-C."""
    config = uvicorn.Config(
        build(restorer), log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    _Server(config).run(sockets=[server])


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at once: a running restoration cannot be interrupted, and nothing needs saving."""
        os._exit(0)


def build(restorer: Restorer) -> Starlette:
    """The web application; it restores one picture at a time."""
    turn = asyncio.Lock()

    async def in_turn(work: Callable[[Picture], dict[str, Any]], request: Request) -> Response:
        data = await _body(request)

        def answer() -> Response:
            picture = _decode(data)
            report = work(picture)
            file = BytesIO()
            notes = [*picture.notes, *encode(picture, file, "PNG"), *report.pop("notes", ())]
            headers = {"Moceir-Report": json.dumps({**report, "notes": notes})}
            return Response(file.getvalue(), headers=headers, media_type="image/png")

        async with turn:
            return await run_in_threadpool(answer)

    async def degrade_first(request: Request) -> Response:
        """The picture, upright, as PNG; degraded, if a ``kind`` is given."""
        kind = request.query_params.get("kind", "")
        try:
            degradation = parse(kind) if kind else None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

        def work(picture: Picture) -> dict[str, Any]:
            if degradation is not None:
                degraded = degrade_picture(picture, degradation, seed=0)
                picture.pixels, picture.metadata = degraded.pixels, degraded.metadata
                picture.notes = degraded.notes
            return {}

        return await in_turn(work, request)

    async def restore(request: Request) -> Response:
        """The restored picture as PNG; the header Moceir-Report tells which experts ran."""
        strength = _number(request, "strength", float, 1.0)
        tile = _number(request, "tile", int, None)

        def work(picture: Picture) -> dict[str, Any]:
            picture.pixels, run = restorer.restore_pixels(
                picture.pixels, tile=tile, strength=strength
            )
            return {"rows": _rows(restorer.model.config, run), "notes": run.notes}

        return await in_turn(work, request)

    def fixed(text: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return Response(text, media_type=media_type)

        return endpoint

    return Starlette(
        routes=[
            Route("/", fixed(_page(restorer), "text/html")),
            *(Route(f"/{name}", fixed(pages.read(name), kind)) for name, kind in _ASSETS.items()),
            Route("/degrade", degrade_first, methods=["POST"]),
            Route("/restore", restore, methods=["POST"]),
        ],
        middleware=[
            # Another host name is an attempt to reach this server from a web site.
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(BaseHTTPMiddleware, dispatch=_guard),
        ],
        exception_handlers={MoceirError: _refuse},
    )


async def _guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse requests that other web sites start; lock the page down to this server."""
    origin = request.headers.get("origin")
    response: Response
    if origin in (None, f"http://{request.headers['host']}"):
        response = await answer(request)
    else:
        response = PlainTextResponse(f"requests from {origin} are refused", 403)
    response.headers.update(_HEADERS)
    return response


async def _refuse(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


async def _body(request: Request) -> bytes:
    too_large = HTTPException(413, f"the file is too large: the limit is {MAX_BYTES / 1e6:g} MB")
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        raise too_large
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BYTES:
                raise too_large
    except ClientDisconnect:  # nobody reads this answer
        raise HTTPException(400, "the upload was cut short") from None
    return bytes(data)


def _number(request: Request, name: str, kind: Callable[[str], N], default: D) -> N | D:
    """A parameter as a number; the Restorer checks its range."""
    given = request.query_params.get(name)
    try:
        return kind(given) if given else default
    except ValueError:
        raise HTTPException(400, f"{name} is {given!r}: give a number") from None


def _decode(data: bytes) -> Picture:
    width, height = size_in(data, "the file")
    if height * width > MAX_PIXELS:
        raise PictureError(
            f"the image has {width} x {height} pixels: the limit here is "
            f"{MAX_PIXELS / 1e6:g} megapixels; moceir restore takes larger images"
        )
    return decode(data, "the file")


def _page(restorer: Restorer) -> str:
    parameters = sum(p.numel() for p in restorer.model.parameters())
    return Template(pages.read("app.html")).substitute(
        model=f"A network of {parameters:,} parameters, on {restorer.device}",
        max_bytes=MAX_BYTES,
        limits=f"{MAX_BYTES / 1e6:g} MB and {MAX_PIXELS / 1e6:g} megapixels",
        kinds="\n".join(f'<option value="{k}">{_label(k)}</option>' for k in (*KINDS, *MIXTURES)),
    )


def _label(kind: str) -> str:
    """``low_light,noise`` as people write it."""
    return kind.replace("_", " ").replace(",", ", then ")


def _rows(config: MoCEIRConfig, run: Run) -> list[dict[str, int]]:
    """Each expert that ran at each decoder block, in the order of the blocks, and where."""
    blocks = zip(config.decoder_levels, *run.tile_experts, strict=True)
    return [
        {
            "block": number,
            "scale": 2**level,
            "expert": expert,
            "window": config.windows[expert - 1],
            "tiles": tiles,
            "of": len(taken),
        }
        for number, (level, *taken) in enumerate(blocks, start=1)
        for expert, tiles in sorted(Counter(taken).items())
    ]
