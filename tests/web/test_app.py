"""The web page of ``moceir app``, from its server and in a browser."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageCms

from moceir import Restorer
from moceir.commands.main import main
from moceir.data.degradations import degrade, parse
from moceir.model import MoCEIR, save_weights
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_image, to_tensor
from tests.browser import SAMPLE, SCREENSHOTS, browse, screenshot, use_slider
from tests.published_weights import TINY

pytest.importorskip("uvicorn", reason="needs pip install 'moceir[app]'")
pytest.importorskip("starlette", reason="needs pip install 'moceir[app]'")


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


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.skipif(bool(SCREENSHOTS), reason="the server has the bundled weights")
def test_restores_as_the_restorer_does(url: str, weights: Path, image: Image.Image) -> None:
    expected = Restorer(weights, "cpu").restore(image)
    answer = ask(url, "/restore", encoded(image))
    assert answer.headers["content-type"] == "image/png"
    report = json.loads(answer.headers["Moceir-Report"])
    assert [row["expert"] for row in report["rows"]] == list(expected.experts)
    difference = np.asarray(answer.image, np.int16) - np.asarray(expected.image, np.int16)
    assert np.abs(difference).max() <= 1  # the rounding of another number of threads
    assert np.abs(np.asarray(expected.image, np.int16) - np.asarray(image)).max() > 1


def test_strength_leads_from_the_picture_to_the_restored_one(url: str, image: Image.Image) -> None:
    data = encoded(image)
    none, half, full, default = (
        np.asarray(ask(url, f"/restore{query}", data).image, np.float32)
        for query in ("?strength=0", "?strength=0.5", "?strength=1", "")
    )
    assert np.array_equal(none, np.asarray(image))
    assert np.array_equal(full, default)
    assert 0 < np.abs(half - none).mean() < np.abs(full - none).mean()


def test_tells_which_experts_ran_in_tiles(url: str) -> None:
    # Half is flat and half noise, so that not every tile is alike.
    flat, noise = Image.new("L", (150, 100), 128), Image.effect_noise((150, 100), 90)
    both = Image.new("L", (300, 100))
    both.paste(flat)
    both.paste(noise, (150, 0))
    answer = ask(url, "/restore?tile=192", encoded(both))
    assert answer.image.mode == "L"
    rows = json.loads(answer.headers["Moceir-Report"])["rows"]
    for block in (1, 2, 3):
        of_block = [row for row in rows if row["block"] == block]
        assert {row["scale"] for row in of_block} == {8 >> block}
        assert {row["of"] for row in of_block} == {sum(row["tiles"] for row in of_block)}
        assert of_block[0]["of"] > 1
        assert all(row["window"] == 2 << row["expert"] for row in of_block)


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


@pytest.mark.parametrize("path", ["/degrade", "/restore?strength=0"])
def test_depth_and_colour_profile_stay(url: str, image: Image.Image, path: str) -> None:
    levels = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    shown = ask(url, path, encoded(Image.fromarray(levels))).image
    assert np.array_equal(np.asarray(shown), levels)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    shown = ask(url, path, encoded(image, icc_profile=profile)).image
    assert shown.info["icc_profile"] == profile


@pytest.mark.parametrize("path", ["/restore", "/degrade"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file: the file is empty"),
        (b"text", "not an image"),
        (encoded(Image.effect_noise((64, 64), 50))[:2000], "cannot be read"),
        (encoded(Image.new("1", (10_000, 6_000))), "10000 x 6000 pixels: the limit here is 50 "),
    ],
)
def test_bad_pictures_are_refused_with_the_reason(
    url: str, path: str, data: bytes, message: str
) -> None:
    answer = ask(url, path, data)
    assert answer.status == 400
    assert message in answer.body.decode()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/restore?strength=1.5", "strength 1.5: give 0 "),
        ("/restore?strength=nan", "strength nan: give 0 "),
        ("/restore?strength=full", "strength is 'full': give a number"),
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
    declared = ask(url, "/restore", b"short", **{"Content-Length": "100000001"})
    sent = ask(url, "/degrade", (bytes(10_000_000) for _ in range(11)))
    for answer in (declared, sent):
        assert answer.status == 413
        assert answer.body == b"the file is too large: the limit is 100 MB"


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
    alone = [ask(url, "/restore", data).image.tobytes() for data in pictures]
    with ThreadPoolExecutor(len(pictures)) as threads:
        answers = list(threads.map(lambda data: ask(url, "/restore", data), pictures))
    assert [answer.image.tobytes() for answer in answers] == alone


def test_pixels_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from moceir.errors import PictureError
    from moceir.web import app

    monkeypatch.setattr(app, "decode", None)  # which would fail otherwise
    for file_format in ("PNG", "JPEG", "TIFF", "WEBP"):
        monkeypatch.setattr(app, "MAX_PIXELS", 60 * 50 - 1)
        with pytest.raises(PictureError, match="60 x 50 pixels: the limit here is"):
            app._decode(encoded(Image.new("RGB", (60, 50)), file_format))


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
    for path in ("/", "/page.css", "/slider.js", "/app.js"):
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


def test_in_a_browser(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, requested):
        page.goto(url)
        restore = page.get_by_role("button", name="Restore")
        assert restore.is_disabled()

        chooser = page.locator("input[type=file]")
        chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"text"})
        restore.click()
        page.get_by_role("alert").filter(has_text="not an image").wait_for()
        assert not page.locator("#result").is_visible()

        chooser.set_input_files(SAMPLE)
        restore.click()
        page.get_by_role("status").filter(has_text="Restored in").wait_for()
        assert not page.get_by_role("alert").is_visible()
        use_slider(page)
        rows = page.locator("tbody tr")
        assert rows.count() == 3
        for row, scale in zip(rows.all(), (4, 2, 1), strict=True):
            cells = row.locator("td").all_inner_texts()
            side = 4 * 2 ** (int(cells[2]) - 1)
            assert cells[3:] == [
                f"{side} x {side}",
                f"{side * scale} x {side * scale} pixels",
                "the whole image",
            ]

        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download PNG").click()
        assert waiting.value.suggested_filename == "rainy-otters-restored.png"
        with Image.open(waiting.value.path()) as downloaded:
            expected = ask(url, "/restore", SAMPLE.read_bytes()).image
            assert downloaded.size == (384, 256)
            assert downloaded.tobytes() == expected.tobytes()
        screenshot(page, "app.png")

        page.get_by_label("Degrade it first").select_option("low_light,noise")
        page.get_by_label("Strength").fill("0")
        before = page.locator("img.before").get_attribute("src")
        restore.click()
        page.wait_for_function("b => document.querySelector('img.before').src !== b", arg=before)
        page.get_by_role("status").filter(has_text="Restored in").wait_for()
        pixels = page.evaluate(PIXELS)
        expected = degrade(to_tensor(open_rgb(SAMPLE))[None], parse("low_light,noise"), seed=0)
        assert pixels["before"].encode("latin-1") == to_image(expected[0]).tobytes()
        assert pixels["after"] == pixels["before"]
    assert f"{url}page.css" in requested
    for address in requested:
        assert address.startswith((url, f"blob:{url}", "data:")), address


# The RGB bytes of both pictures as the page shows them, each as a character.
PIXELS = """() => Object.fromEntries(["before", "after"].map((name) => {
  const image = document.querySelector("img." + name);
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const {data} = canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
  let text = "";
  for (let i = 0; i < data.length; i++) if (i % 4 < 3) text += String.fromCharCode(data[i]);
  return [name, text];
}))"""
