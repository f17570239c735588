"""The server of ``moceir app``."""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms

from moceir import Restorer
from moceir.commands.main import main
from moceir.data.degradations import degrade, parse
from moceir.inference.results import said
from moceir.pictures.pixels import to_image, to_tensor
from tests.browser import SCREENSHOTS
from tests.web.served import ask, encoded, restored, saved, url, weights

__all__ = ["url", "weights"]

pytest.importorskip("uvicorn", reason="needs pip install 'moceir[app]'")
pytest.importorskip("starlette", reason="needs pip install 'moceir[app]'")


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.skipif(bool(SCREENSHOTS), reason="the server has the bundled weights")
def test_restores_as_the_restorer_does(url: str, weights: Path, image: Image.Image) -> None:
    expected = Restorer(weights, "cpu").restore(image)
    answer = restored(url, encoded(image))
    assert answer.progress == [{"done": 0, "tiles": 1}]
    assert [row["expert"] for row in answer.report["rows"]] == list(expected.experts)
    difference = np.asarray(answer.image, np.int16) - np.asarray(expected.image, np.int16)
    assert np.abs(difference).max() <= 1  # the rounding of another number of threads
    assert np.abs(np.asarray(expected.image, np.int16) - np.asarray(image)).max() > 1


@pytest.mark.skipif(bool(SCREENSHOTS), reason="the server has the bundled weights")
@pytest.mark.parametrize(
    ("query", "settings"),
    [
        ("only=noise,haze&light=", {"only": "noise,haze"}),
        ("only=found", {"only": "found"}),
        ("light=0&detail=0.5", {"light": 0.0, "detail": 0.5}),
    ],
)
def test_removes_what_is_asked_for(
    url: str, weights: Path, image: Image.Image, query: str, settings: dict[str, Any]
) -> None:
    expected = Restorer(weights, "cpu").restore(image, **settings)
    answer = restored(url, encoded(image), f"?{query}")
    difference = np.asarray(answer.image, np.int16) - np.asarray(expected.image, np.int16)
    assert np.abs(difference).max() <= 1
    found = expected.run.found
    assert answer.report["found"] == ([] if found is None else [said(found)])


def test_refuses_what_cannot_be_removed(url: str, image: Image.Image) -> None:
    answer = ask(url, "/restore?only=dust", encoded(image))
    assert answer.status == 400 and b"unknown degradation 'dust'" in answer.body
    answer = ask(url, "/restore?light=2", encoded(image))
    assert answer.status == 400 and b"light 2.0: give 0" in answer.body


def test_tells_tile_by_tile_how_far_it_is_and_which_experts_ran(url: str) -> None:
    # Half is flat and half noise, so that not every tile is alike.
    flat, noise = Image.new("L", (150, 100), 128), Image.effect_noise((150, 100), 90)
    both = Image.new("L", (300, 100))
    both.paste(flat)
    both.paste(noise, (150, 0))
    answer = restored(url, encoded(both), "?tile=192")
    assert answer.image.mode == "L"
    tiles = len(answer.progress)
    assert tiles > 1
    assert answer.progress == [{"done": done, "tiles": tiles} for done in range(tiles)]
    for block in (1, 2, 3):
        of_block = [row for row in answer.report["rows"] if row["block"] == block]
        assert {row["scale"] for row in of_block} == {8 >> block}
        assert {row["of"] for row in of_block} == {sum(row["tiles"] for row in of_block)} == {tiles}
        assert all(row["window"] == 2 << row["expert"] for row in of_block)


@pytest.mark.skipif(bool(SCREENSHOTS), reason="the server has the bundled weights")
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_what_is_saved_has_the_strength_that_was_chosen(
    url: str, weights: Path, image: Image.Image, mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    else:
        image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(image.getchannel("G").point(lambda level: level if level > 90 else 0))
    data = encoded(image)
    result = restored(url, data).file
    level = 257 if mode == "I;16" else 1  # one of 8 bits: the rounding of another thread number
    restorer = Restorer(weights, "cpu")
    for strength in (0, 0.3, 0.75, 1):
        found = saved(url, data, result, f"strength={strength}").image
        assert found.mode == mode
        expected = np.asarray(restorer.restore(image, strength=strength).image, np.int32)
        assert np.abs(np.asarray(found, np.int32) - expected).max() <= level
    assert np.array_equal(np.asarray(saved(url, data, result, "strength=0").image), image)


def test_a_saved_file_has_the_metadata_of_its_original(url: str, image: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    data = encoded(image, "JPEG", exif=exif, icc_profile=profile, dpi=(300, 300), comment=b"words")
    result = restored(url, data).file
    for query, name in (("format=jpeg&quality=90", "JPEG"), ("format=webp&quality=90", "WEBP")):
        found = saved(url, data, result, query)
        assert found.headers["content-type"] == f"image/{name.lower()}"
        assert found.image.format == name
        assert found.image.size == (30, 40)  # upright
        assert found.image.info["icc_profile"] == profile
        held = found.image.getexif()
        assert held[0x010F] == "maker" and held.get(0x0112, 1) == 1
        notes = json.loads(found.headers["Moceir-Notes"])
        if name == "JPEG":  # which holds what went through no PNG on its way
            assert found.image.info["comment"] == b"words" and notes == []
            assert found.image.info["dpi"] == (300, 300)
        else:
            assert notes == ["left out, as WEBP has no place for them: comment"]


def test_quality_is_that_of_the_file(url: str) -> None:
    data = encoded(Image.effect_noise((64, 64), 60))
    result = restored(url, data).file
    for name in ("jpeg", "webp"):
        sizes = [
            len(saved(url, data, result, f"format={name}&quality={quality}").body)
            for quality in (10, 50, 95)
        ]
        assert sizes == sorted(set(sizes))


def test_results_that_cannot_be_saved_are_refused_with_the_reason(
    url: str, image: Image.Image
) -> None:
    data = encoded(image)
    result = restored(url, data).file
    other = encoded(image.resize((20, 20)))
    clear = encoded(image.convert("RGBA").rotate(45))
    for original, after, query, message in (
        (data, result, "format=gif", "format is 'GIF': choose PNG, JPEG, WEBP"),
        (data, result, "format=jpeg&quality=0", "quality is 0: give 1 to 100"),
        (data, result, "strength=1.5", "strength 1.5: give 0 "),
        (data, result, "strength=nan", "strength nan: give 0 "),
        (data, result, "strength=full", "strength is 'full': give a number"),
        (data, b"", "name=a.png", "the result of a.png: the file is empty"),
        (other, result, "name=a.png", "a.png: the result has shape (30, 40, 3) and its original "),
        (clear, restored(url, clear).file, "format=jpeg&name=b.png", "b.png: it is RGBA, and JPEG"),
    ):
        answer = saved(url, original, after, query)
        assert answer.status == 400
        assert message in answer.body.decode()
    for query in ("", "?original=0", "?original=-1"):
        answer = ask(url, f"/save{query}", data + result)
        assert (answer.status, answer.body) == (
            400,
            b"original: give the number of bytes of the original's file",
        )


def test_degrades_first(url: str, image: Image.Image) -> None:
    expected = to_image(degrade(to_tensor(image)[None], parse("haze,rain"), seed=0)[0])
    shown = ask(url, "/degrade?kind=haze,rain", encoded(image)).image
    assert shown.tobytes() == expected.tobytes()
    grey = ask(url, "/degrade?kind=haze", encoded(image.convert("LA"))).image
    assert grey.mode == "RGB"


def test_shows_a_picture_upright_with_its_own_pixels(url: str, image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = ask(url, "/degrade", encoded(image, "TIFF", exif=exif)).image
    assert shown.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_depth_and_colour_profile_stay(url: str, image: Image.Image) -> None:
    levels = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    data = encoded(Image.fromarray(levels))
    assert np.array_equal(np.asarray(ask(url, "/degrade", data).image), levels)
    assert restored(url, data).image.mode == "I;16"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(image, icc_profile=profile)
    for shown in (ask(url, "/degrade", data).image, restored(url, data).image):
        assert shown.info["icc_profile"] == profile


def test_tells_what_a_browser_shows_otherwise(url: str, image: Image.Image) -> None:
    moving = encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)])
    report = restored(url, moving).report
    assert report["as_shown"] is False and report["notes"] == ["the first of its 2 frames"]
    assert restored(url, encoded(image)).report["as_shown"] is True
    # Which browsers do not turn by its EXIF orientation.
    assert restored(url, encoded(image, "WEBP")).report["as_shown"] is False


@pytest.mark.parametrize("path", ["/restore", "/degrade"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a b.png: the file is empty"),
        (b"text", "a b.png: not an image"),
        (encoded(Image.effect_noise((64, 64), 50))[:2000], "a b.png: cannot be read"),
        (
            encoded(Image.new("1", (10_000, 6_000))),
            "a b.png: the image has 10000 x 6000 pixels: the limit here is 50 ",
        ),
    ],
)
def test_bad_pictures_are_refused_with_the_reason(
    url: str, path: str, data: bytes, message: str
) -> None:
    answer = ask(url, f"{path}?name=a%20b.png", data)
    assert answer.status == 400
    assert message in answer.body.decode()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/restore?tile=-1", "tile -1 is too small"),
        ("/restore?tile=nan", "tile is 'nan': give a number"),
        ("/degrade?kind=rian", "unknown degradation 'rian'"),
        ("/degrade?kind=noise:sigma=900", "sigma"),
    ],
)
def test_bad_parameters_are_refused_with_the_reason(
    url: str, image: Image.Image, path: str, message: str
) -> None:
    answer = ask(url, path, encoded(image))
    assert answer.status == 400
    assert message in answer.body.decode()


def test_large_files_are_refused(url: str) -> None:
    sent = ask(url, "/degrade", (bytes(10_000_000) for _ in range(11)))
    assert (sent.status, sent.body) == (413, b"the file is too large: the limit is 100 MB")
    # What /degrade made, with noise, may be larger than what it was made of.
    for path, limit in (("/degrade", 100), ("/restore", 250), ("/save", 750)):
        query = f"{path}?name=a.png&original=5"
        answer = ask(url, query, b"short", **{"Content-Length": f"{limit}000001"})
        assert answer.status == 413
        assert answer.body.decode() == f"a.png is too large: the limit is {limit} MB"


def test_an_upload_that_is_cut_short_costs_nothing(url: str, image: Image.Image) -> None:
    """Nor is it a trace in the terminal: the server's last words are looked at when it stops."""
    address = (urlsplit(url).hostname, urlsplit(url).port)
    head = f"POST /restore HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n".encode()
    for rest in (
        b"Content-Length: 1000000\r\n\r\n",
        b"Content-Length: 1000000\r\n\r\n" + bytes(300_000),
        b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc",
    ):
        with socket.create_connection(address) as connection:
            connection.sendall(head + rest)
    assert ask(url, "/restore", encoded(image)).status == 200


def test_requests_at_once_get_their_own_answers(url: str) -> None:
    pictures = [encoded(Image.effect_noise((30 + i, 24), 60)) for i in range(6)]
    alone = [restored(url, data).image.tobytes() for data in pictures]
    with ThreadPoolExecutor(len(pictures)) as threads:
        answers = list(threads.map(lambda data: restored(url, data), pictures))
    assert [answer.image.tobytes() for answer in answers] == alone


def test_pixels_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from moceir.errors import PictureError
    from moceir.web import app

    monkeypatch.setattr(app, "decode", None)  # which would fail otherwise
    for file_format in ("PNG", "JPEG", "TIFF", "WEBP"):
        monkeypatch.setattr(app, "MAX_PIXELS", 60 * 50 - 1)
        with pytest.raises(PictureError, match="a: the image has 60 x 50 pixels: the limit here"):
            app._decode(encoded(Image.new("RGB", (60, 50)), file_format), "a")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/static/../../../../etc/passwd",
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/page.css/../app.py",
        "/page.css%00.py",
        "/app.py",
        "/pages/app.html",
        "/compare.html",
        "/docs",
        "/openapi.json",
        "file:///etc/passwd",
    ],
)
def test_no_file_of_the_server_can_be_read(url: str, path: str) -> None:
    for prefix in ("", urlsplit(url).path.rstrip("/")):
        answer = ask(url, prefix + path)
        assert answer.status == 404
        assert answer.body == b"Not Found"


def test_other_web_sites_cannot_use_it(url: str, image: Image.Image) -> None:
    data = encoded(image)
    assert ask(url, "/restore", data, Origin=url.rstrip("/")).status == 200
    for origin in ("https://example.com", "http://127.0.0.1:1", "null"):
        answer = ask(url, "/restore", data, Origin=origin)
        assert (answer.status, answer.body) == (403, f"requests from {origin} are refused".encode())
    # A name that its owner points at 127.0.0.1.
    assert ask(url, "/", Host="example.com").status == 400


def test_the_page_may_load_nothing_from_elsewhere(url: str) -> None:
    scripts = ("app.js", "requests.js", "slider.js", "view.js", "zip.js")
    for path in ("/", "/page.css", *(f"/{name}" for name in scripts)):
        answer = ask(url, path)
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert b"http:" not in answer.body and b"https:" not in answer.body


def test_listens_on_this_computer_alone(url: str) -> None:
    # A server on every address would answer on this one too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", urlsplit(url).port or 0))


def test_a_busy_port_is_named(url: str) -> None:
    port = urlsplit(url).port
    result = CliRunner().invoke(main, ["app", "--port", str(port)])
    assert result.exit_code == 1
    assert result.output == (
        f"Error: port {port} is in use by another program: choose another (--port)\n"
    )


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "moceir.web.app", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(main, ["app"])
    assert result.exit_code == 1
    assert result.output == "Error: uvicorn is missing: pip install 'moceir[app]'\n"


def test_the_page_says_what_restores(weights: Path) -> None:
    from moceir.web.app import _page  # which needs what may not be installed

    alone, several = Restorer(weights, "cpu", "bfloat16"), Restorer(device="cpu")
    assert "on cpu in bfloat16" in _page(alone) and "on cpu in float32" in _page(several)
    assert f"A network of {alone.parameters:,} parameters" in _page(alone)
    assert f"Networks of {several.parameters:,} parameters" in _page(several)
    assert "last specialist" in _page(several) and "last specialist" not in _page(alone)
