"""Pictures by URL: in memory, from a web server, and on an S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from moceir.errors import ConfigError
from moceir.files import shown
from moceir.inference.jobs import Job
from moceir.inference.planning import plan_files
from moceir.pictures import codec
from moceir.pictures.remote import Remote, place
from tests.small_network import Restore, noise, picture, restore, restorer, weights

ROOT = Path(__file__).parents[2]

__all__ = ["restore", "restorer", "weights"]  # fixtures


def png(width: int = 24) -> bytes:
    file = BytesIO()
    noise(width).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def memory() -> str:
    """A folder of its own."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server of this machine."""
    server_of = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask flask-cors")
    pytest.importorskip("s3fs")
    server = server_of.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"  # the server of the next test knows those before
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def folder(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def put(url: str, content: bytes) -> None:
    Remote(url).write_bytes(content, overwrite=True)


def names(folder: str) -> list[str]:
    """Of all files in a folder, relative to it."""
    system, path = fsspec.core.url_to_fs(folder, use_listings_cache=False)
    return sorted(name.removeprefix(path).strip("/") for name in system.find(path))


def test_folders_to_folders(folder: str, restore: Restore) -> None:
    for name in ("a.png", "sub/b.jpg", "sub/.hidden.png", ".cache/c.png", "notes.txt"):
        put(f"{folder}/in/{name}", png())
    put(f"{folder}/in/broken.png", b"text")
    words = (f"{folder}/in", "-o", f"{folder}/out")
    result = restore(*words)
    assert result.exit_code == 1, result.output
    assert f"not restored: {folder}/in/broken.png: not an image" in result.output
    assert names(f"{folder}/out") == ["a.png", "sub/b.jpg"]
    assert codec.read(Remote(f"{folder}/out/a.png")).pixels.shape == (16, 24, 3)
    # What is there stays as it is, unless asked.
    put(f"{folder}/out/a.png", b"precious")
    refused = restore(*words)
    assert refused.exit_code == 1
    assert f"{folder}/out/a.png: already there (and 1 more): choose another" in refused.output
    lines = restore(*words, "--skip-existing", "--json").stdout.splitlines()
    assert sorted(json.loads(line)["status"] for line in lines) == ["failed", "skipped", "skipped"]
    assert Remote(f"{folder}/out/a.png").read_bytes() == b"precious"
    restore(*words, "--overwrite")
    assert codec.read(Remote(f"{folder}/out/a.png")).pixels.shape == (16, 24, 3)


def test_between_here_and_there(tmp_path: Path, folder: str, restore: Restore) -> None:
    source = picture(tmp_path / "a.png")
    assert restore(source, "-o", f"{folder}/a.png").exit_code == 0
    assert restore(f"{folder}/a.png", "-o", tmp_path / "out").exit_code == 0
    assert Image.open(tmp_path / "out" / "a.png").size == (24, 16)
    put(f"{folder}/b.png", png())
    assert restore(f"{folder}/?.png", "-o", tmp_path / "more").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "more").iterdir()) == ["a.png", "b.png"]
    listed = tmp_path / "list.txt"
    listed.write_text(f"b.png\n{folder}/a.png\n{folder}x/c.png\nd.png\n")
    result = restore(folder, "--files-from", listed, "-o", tmp_path / "listed")
    assert sorted(path.name for path in (tmp_path / "listed").iterdir()) == ["a.png", "b.png"]
    assert f"{folder}x/c.png: not in {folder}" in result.output
    assert f"{folder}/d.png: No such file or directory" in result.output


def test_what_is_missing_is_named(tmp_path: Path, folder: str, restore: Restore) -> None:
    for words, message in (
        ((f"{folder}/none.png", "-o", tmp_path / "x.png"), f"{folder}/none.png: no such file"),
        ((f"{folder}/*.png", "-o", tmp_path / "x.png"), "no file matches this pattern"),
        ((f"{folder}/in", "-o", tmp_path), f"{folder}/in: no such file"),
    ):
        result = restore(*words)
        assert result.exit_code == 1 and f"not restored: {folder}" in result.output
        assert message in result.output and "unexpected" not in result.output


def test_a_result_that_appears_meanwhile_is_kept(
    folder: str, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{folder}/in/a.png", png())
    encode = codec.encode

    def slow(*args: Any) -> list[str]:
        put(f"{folder}/out/a.png", b"precious")
        return encode(*args)

    monkeypatch.setattr(codec, "encode", slow)
    result = restore(f"{folder}/in", "-o", f"{folder}/out")
    assert result.exit_code == 1
    assert f"{folder}/out/a.png: appeared in the meantime and was kept" in result.output
    assert Remote(f"{folder}/out/a.png").read_bytes() == b"precious"


def test_an_upload_that_fails_leaves_nothing(
    s3: str, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after half of the picture."""
    put(f"{s3}/in/a.png", png())
    put(f"{s3}/out/a.png", b"before")
    from aiobotocore.httpsession import AIOHTTPSession

    send = AIOHTTPSession.send

    async def broken(self: Any, request: Any) -> Any:
        if request.method == "PUT":
            request.body = request.body[: len(request.body) // 2]
            request.headers["Content-Length"] = str(len(png()) * 2)
        return await send(self, request)

    monkeypatch.setattr(AIOHTTPSession, "send", broken)
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    result = restore(f"{s3}/in", "-o", f"{s3}/out", "--overwrite")
    assert result.exit_code == 1 and f"not restored: {s3}/out/a.png: " in result.output
    monkeypatch.undo()
    assert Remote(f"{s3}/out/a.png").read_bytes() == b"before"
    assert names(f"{s3}/out") == ["a.png"]


def test_from_a_web_server(tmp_path: Path, restore: Restore) -> None:
    picture(tmp_path / "served" / "a.png")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert restore(f"{url}/a.png", "-o", tmp_path / "b.png").exit_code == 0
        result = restore(f"{url}/none.png", "-o", tmp_path / "c.png")
        assert (
            result.exit_code == 1 and f"{url}/none.png: No such file or directory" in result.output
        )
        assert [job.source for job in plan_files(f"{url}/", tmp_path) if isinstance(job, Job)] == [
            Remote(f"{url}/a.png")
        ]
        server.shutdown()
    assert Image.open(tmp_path / "b.png").size == (24, 16)
    result = restore(f"{url}/a.png", "-o", tmp_path / "d.png")  # nobody listens any more
    assert result.exit_code == 1 and f"not restored: {url}/a.png: " in result.output


def test_what_cannot_be_used_is_refused_first(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    for url, message in (
        ("https://host/out", "results are written to folders of this machine and to s3://"),
        ("file:///tmp/out", "results are written to folders of this machine"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_files(source, url)
    with pytest.raises(ConfigError, match=r"nothing://x/a\.png: Protocol not known"):
        plan_files("nothing://x/a.png", tmp_path)


MISSING = """
import sys
sys.modules[sys.argv[1]] = None
from moceir.inference.planning import plan_files
plan_files(sys.argv[2], "out")
"""


@pytest.mark.parametrize(
    ("missing", "url"),
    [("fsspec", "memory://a.png"), ("s3fs", "s3://b/a.png"), ("aiohttp", "https://h/a.png")],
)
def test_a_missing_package_is_named(missing: str, url: str) -> None:
    script = [sys.executable, "-c", MISSING, missing, url]
    run = subprocess.run(
        script, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    last = run.stderr.splitlines()[-1]
    assert last.endswith(f"ConfigError: {url}: {missing} is missing: pip install 'moceir[remote]'")


def test_which_text_is_a_url() -> None:
    assert place("s3://bucket/a.png") == Remote("s3://bucket/a.png")
    for text in ("a.png", "/x/a.png", "s3:/bucket", "C://a.png"):
        assert place(text) == Path(text)
    url = Remote("s3://bucket/folder/a.b.png")
    assert (url.name, url.suffix, url.protocol) == ("a.b.png", ".png", "s3")
    assert Remote("s3://bucket/") / "a.png" == Remote("s3://bucket/a.png")
    assert shown(Remote("s3://b/x\ny")) == "s3://b/x\\ny"
