"""A local web page around a Restorer: the command ``moceir app``.

The server answers fixed addresses and three requests that carry images. It opens no file by a
name it is given, stores no image, and listens only on this computer.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from string import Template
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moceir.config import MoCEIRConfig
from moceir.data.degradations import KINDS, degrade_picture, parse
from moceir.errors import ConfigError, MoceirError, PictureError, first_line, is_expected
from moceir.inference.canvas import PixelCanvas
from moceir.inference.restorer import Restorer
from moceir.inference.results import Run, said
from moceir.inference.settings import Settings, check
from moceir.pictures.codec import Picture, decode, encode, size_in
from moceir.pictures.pixels import levels
from moceir.web import pages
from moceir.web.compare import WEB_FORMATS
from moceir.web.streams import Progress, answer_while_working

N = TypeVar("N")
D = TypeVar("D")

HOST = "127.0.0.1"
MAX_BYTES = 100_000_000
MAX_PIXELS = 50_000_000
MAX_GIVEN = MAX_BYTES + 3 * MAX_PIXELS
"""Bytes of a picture that is restored: what ``/degrade`` made of one is 8-bit RGB, which perhaps
could not be compressed."""

MAX_RESULT = MAX_BYTES + 8 * MAX_PIXELS
"""Bytes of a result on its way back to be saved: the original's metadata, and 16-bit RGB with
transparency that could not be compressed."""

SAVED = ("PNG", "JPEG", "WEBP")
"""The formats that results are saved in."""

_PATIENCE = 0.2
"""Seconds after which a request that waits for the network looks whether it was dropped."""

_ROWS = 256
"""Of a picture that are blended at a time."""

MIXTURES = ("haze,rain", "low_light,noise")
"""Mixtures that the page offers in addition to the single kinds."""

_ASSETS = {
    "page.css": "text/css",
    **dict.fromkeys(("app.js", "requests.js", "slider.js", "view.js", "zip.js"), "text/javascript"),
}
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
    """The web application; it restores one picture at a time, and encodes one beside it."""
    requests = _Requests(restorer)

    def fixed(text: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return Response(text, media_type=media_type)

        return endpoint

    return Starlette(
        routes=[
            Route("/", fixed(_page(restorer), "text/html")),
            *(Route(f"/{name}", fixed(pages.read(name), kind)) for name, kind in _ASSETS.items()),
            Route("/degrade", requests.degrade, methods=["POST"]),
            Route("/restore", requests.restore, methods=["POST"]),
            Route("/save", requests.save, methods=["POST"]),
        ],
        middleware=[
            # Another host name is an attempt to reach this server from a web site.
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(_Guard),
        ],
        exception_handlers={MoceirError: _refuse},
    )


class _Requests:
    """The requests that carry pictures."""

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self._network, self._codec = threading.Lock(), threading.Lock()

    async def restore(self, request: Request) -> Response:
        """The progress by tiles, which experts ran, then the restored picture as PNG."""
        name, settings = _name(request), _settings(request)
        data = await _body(request, MAX_GIVEN)

        def work(progress: Progress) -> bytes:
            with _held(self._network, progress):
                progress.check()
                picture = _decode(data, name)
                # Browsers do not turn WebP by its EXIF orientation.
                as_shown = not picture.notes and picture.format != "WEBP"

                def count(done: int, tiles: int) -> None:
                    progress.tell(done=done, tiles=tiles)

                with _naming(name):
                    picture.pixels, run = self._restorer.restore_pixels(
                        picture.pixels, progress=count, **settings
                    )
                    file, _ = _encoded(picture, "PNG")
            progress.tell(
                bytes=len(file),
                rows=_rows(self._restorer.model.config, run),
                notes=[*picture.notes, *run.notes],
                found=[] if run.found is None else [said(run.found)],
                as_shown=as_shown,
            )
            return file

        return await answer_while_working(request, work)

    async def degrade(self, request: Request) -> Response:
        """The picture, upright, as PNG; degraded, if a ``kind`` is given."""
        name, kind = _name(request), request.query_params.get("kind", "")
        try:
            degradation = parse(kind) if kind else None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

        def picture(data: bytes) -> Picture:
            decoded = _decode(data, name)
            with _naming(name):
                return degrade_picture(decoded, degradation, seed=0) if degradation else decoded

        return await self._answer(request, MAX_BYTES, picture, "PNG")

    async def save(self, request: Request) -> Response:
        """A result in the format and with the strength that were chosen, and the metadata of its
        original. The body is the original's file, ``original`` bytes long, then its result."""
        name, strength = _name(request), _number(request, "strength", float, 1.0)
        length, quality = (_number(request, key, int, None) for key in ("original", "quality"))
        file_format = request.query_params.get("format", "PNG").upper()
        if length is None or length < 1:
            raise HTTPException(400, "original: give the number of bytes of the original's file")
        if file_format not in SAVED:
            raise HTTPException(400, f"format is {file_format!r}: choose {', '.join(SAVED)}")
        if quality is not None and not 1 <= quality <= 100:
            raise HTTPException(400, f"quality is {quality}: give 1 to 100")

        def picture(data: bytes) -> Picture:
            original = _decode(data[:length], name)
            result = _decode(data[length:], f"the result of {name}")
            with _naming(name):
                original.pixels = blended(original.pixels, result.pixels, strength)
            return original

        return await self._answer(request, MAX_GIVEN + MAX_RESULT, picture, file_format, quality)

    async def _answer(
        self,
        request: Request,
        limit: int,
        picture: Callable[[bytes], Picture],
        file_format: str,
        quality: int | None = None,
    ) -> Response:
        """What is made of the request's body, as a file."""
        data = await _body(request, limit)

        def work() -> Response:
            with self._codec:
                made = picture(data)
                with _naming(_name(request)):
                    file, notes = _encoded(made, file_format, quality)
            headers = {"Moceir-Notes": json.dumps([*made.notes, *notes])}
            return Response(file, headers=headers, media_type=WEB_FORMATS[file_format])

        return await run_in_threadpool(work)


class _Guard:
    """Refuses requests that other web sites start; locks the page down to this server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_locked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin in (None, f"http://{headers['host']}"):
            await self._app(scope, receive, send_locked)
        else:
            refusal = PlainTextResponse(f"requests from {origin} are refused", 403)
            await refusal(scope, receive, send_locked)


def blended(original: np.ndarray, result: np.ndarray, strength: float) -> np.ndarray:
    """What ``Restorer`` gives at a strength, from what it gives at full strength.

    The result was rounded to the depth of a file, so a level may be off by one.

    Args:
        original: (H, W, C), as in ``Restorer.restore_pixels``.
        result: that of the original, of the same shape; its depth may be another.
        strength: from 0, the original, to 1, the result.

    Raises:
        ConfigError: ``strength`` is out of range.
        PictureError: another shape.
    """
    check({"strength": strength})
    if original.shape != result.shape:
        raise PictureError(
            f"the result has shape {result.shape} and its original {original.shape}: "
            "restore it again"
        )
    canvas = PixelCanvas(original[None], strength)
    colours = 3 if result.shape[2] >= 3 else 1
    for top in range(0, len(result), _ROWS):  # as float32 it takes several times the memory
        rows = slice(top, top + _ROWS)
        part = result[rows, :, :colours].astype(np.float32) / np.float32(levels(result.dtype))
        canvas.put(rows, torch.from_numpy(part).permute(2, 0, 1)[None].expand(-1, 3, -1, -1))
    return canvas.restored[0]


async def _refuse(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


async def _body(request: Request, limit: int) -> bytes:
    message = f"{_name(request)} is too large: the limit is {limit / 1e6:g} MB"
    too_large = HTTPException(413, message)
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
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


def _settings(request: Request) -> Settings:
    settings = Settings(tile=_number(request, "tile", int, None))
    for name in ("light", "detail"):
        settings[name] = _number(request, name, float, None)  # type: ignore[literal-required]
    settings["only"] = request.query_params.get("only") or None
    check(settings)  # before the network is waited for
    return settings


def _name(request: Request) -> str:
    """What messages call the picture."""
    return request.query_params.get("name") or "the file"


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors about a picture begin with its name."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except MemoryError as error:
        raise PictureError(f"{name}: too little memory") from error
    except RuntimeError as error:  # of torch, whose advice is for programmers; of a backend
        said = str(error) if is_expected(error) else first_line(error)
        raise PictureError(f"{name}: {said}") from error


@contextmanager
def _held(lock: threading.Lock, progress: Progress) -> Iterator[None]:
    """With the lock; raises Gone if nobody waits for the answer any more."""
    while not lock.acquire(timeout=_PATIENCE):
        progress.check()
    try:
        yield
    finally:
        lock.release()


def _decode(data: bytes, name: str) -> Picture:
    width, height = size_in(data, name)
    if height * width > MAX_PIXELS:
        raise PictureError(
            f"{name}: the image has {width} x {height} pixels: the limit here is "
            f"{MAX_PIXELS / 1e6:g} megapixels; moceir restore takes larger images"
        )
    return decode(data, name)


def _encoded(
    picture: Picture, file_format: str, quality: int | None = None
) -> tuple[bytes, list[str]]:
    file = BytesIO()
    notes = encode(picture, file, file_format, quality)
    return file.getvalue(), notes


def _page(restorer: Restorer) -> str:
    many = restorer.specialists is not None
    networks = f"{'Networks' if many else 'A network'} of {restorer.parameters:,} parameters"
    return Template(pages.read("app.html")).substitute(
        model=f"{networks}, on {restorer.device} in {restorer.precision}",
        whose="; those of the last specialist" if many else "",
        max_bytes=MAX_BYTES,
        limits=f"{MAX_BYTES / 1e6:g} MB and {MAX_PIXELS / 1e6:g} megapixels",
        kinds="\n".join(f'<option value="{k}">{_label(k)}</option>' for k in (*KINDS, *MIXTURES)),
        chosen="\n".join(
            f'<label><input type="checkbox" name="chosen" value="{k}"> {_label(k)}</label>'
            for k in KINDS
        ),
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
