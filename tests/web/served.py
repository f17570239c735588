"""The server of ``moceir app`` for its tests."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

from moceir.model import MoCEIR, save_weights
from tests.browser import SCREENSHOTS
from tests.published_weights import TINY


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(MoCEIR(TINY), path)
    return path


@pytest.fixture(scope="module")
def url(weights: Path) -> Iterator[str]:
    """The command as its users start and stop it."""
    model = [] if SCREENSHOTS else ["-m", str(weights)]
    command = [
        "-c",
        "from moceir.commands.main import main; main()",
        "app",
        "--device",
        "cpu",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [sys.executable, *command, *model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if not words:
        pytest.fail(process.communicate()[1])
    yield words[1]
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def image(self) -> Image.Image:
        assert self.status == 200, self.body
        return Image.open(BytesIO(self.body))


def ask(url: str, path: str, body: object = None, **headers: str) -> Answer:
    """Send a request with exactly this path; one with a body is a POST."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET" if body is None else "POST", path, body, headers)  # type: ignore[arg-type]
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


class Restored(NamedTuple):
    """The answer of /restore to a picture that could be restored."""

    progress: list[dict[str, int]]
    report: dict[str, Any]
    file: bytes

    @property
    def image(self) -> Image.Image:
        return Image.open(BytesIO(self.file))


def restored(url: str, data: bytes, query: str = "") -> Restored:
    answer = ask(url, f"/restore{query}", data)
    assert answer.status == 200, answer.body
    progress, rest = [], answer.body
    while True:
        line, _, rest = rest.partition(b"\n")
        message = json.loads(line)
        if "bytes" in message:
            assert message["bytes"] == len(rest)
            return Restored(progress, message, rest)
        progress.append(message)


def saved(url: str, original: bytes, result: bytes, query: str = "") -> Answer:
    return ask(url, f"/save?original={len(original)}&{query}", original + result)
