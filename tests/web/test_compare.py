"""The page of ``moceir compare``."""

from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import moceir
from moceir.commands.main import main
from moceir.errors import ConfigError
from tests.browser import (
    SAMPLE,
    SCREENSHOTS,
    browse,
    check_accessibility,
    screenshot,
    use_slider,
)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, words)])


def picture(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    shape = (size[1], size[0], 3)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


class Page(HTMLParser):
    """What a page refers to, its pictures and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.pictures: dict[str, tuple[str, bytes]] = {}
        self.words = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attributes}
        names = ("src", "href", "srcset", "action", "data", "poster", "style")
        self.references += [values[name] for name in names if name in values]
        if tag == "img":
            head, _, data = values["src"].partition(";base64,")
            content = base64.b64decode(data, validate=True)
            self.pictures[values["class"]] = (head, content)
            self.words += values["alt"]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    before, after = picture(tmp_path / "a.png"), picture(tmp_path / "after.png")
    result = run(before, after, "-o", tmp_path / "new" / "c.html")
    assert result.exit_code == 0, result.output
    page = Page(tmp_path / "new" / "c.html")
    assert len(page.references) == 3  # an empty icon and two pictures
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"https?:|url\(|@import", page.source)
    assert "default-src 'none'" in page.source
    for words in ("a.png", "after.png", "40 x 30", f"{before.stat().st_size / 1e3:.1f} kB"):
        assert words in page.words


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.png", "png"), ("a.jpg", "jpeg"), ("a.webp", "webp"), ("a.gif", "gif")],
)
def test_web_formats_are_embedded_as_they_are(tmp_path: Path, name: str, media_type: str) -> None:
    before, after = picture(tmp_path / name), picture(tmp_path / "after.png")
    assert run(before, after, "-o", tmp_path / "c.html").exit_code == 0
    pictures = Page(tmp_path / "c.html").pictures
    assert pictures["before"] == (f"data:image/{media_type}", before.read_bytes())
    assert pictures["after"] == ("data:image/png", after.read_bytes())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "1"])
def test_other_formats_become_png_with_the_same_pixels(tmp_path: Path, mode: str) -> None:
    before, after = picture(tmp_path / "a.tif", mode=mode), picture(tmp_path / "after.png")
    assert run(before, after, "-o", tmp_path / "c.html").exit_code == 0
    media_type, data = Page(tmp_path / "c.html").pictures["before"]
    assert media_type == "data:image/png"
    with Image.open(BytesIO(data)) as embedded, Image.open(before) as original:
        expected = original.convert({"CMYK": "RGB", "1": "L"}.get(mode, mode))
        assert embedded.mode == expected.mode
        assert embedded.tobytes() == expected.tobytes()


def test_sixteen_bits_stay(tmp_path: Path) -> None:
    levels = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert run(tmp_path / "a.tif", tmp_path / "a.tif", "-o", tmp_path / "c.html").exit_code == 0
    _, data = Page(tmp_path / "c.html").pictures["after"]
    with Image.open(BytesIO(data)) as embedded:
        assert np.array_equal(np.asarray(embedded), levels)


def test_a_moving_picture_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    after = picture(tmp_path / "after.png")
    assert run(tmp_path / "a.gif", after, "-o", tmp_path / "c.html").exit_code == 0
    media_type, data = Page(tmp_path / "c.html").pictures["before"]
    assert media_type == "data:image/png"
    with Image.open(BytesIO(data)) as embedded:
        assert embedded.convert("RGB").getcolors() == [(1200, (255, 0, 0))]


def test_sizes_are_those_of_the_upright_pictures(tmp_path: Path) -> None:
    turned = Image.new("RGB", (30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    after = picture(tmp_path / "after.png", (40, 30))
    assert run(tmp_path / "a.jpg", after, "-o", tmp_path / "c.html").exit_code == 0


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)<\u2215script>.png",
        "\"><img src=x onerror='alert(1)'>.png",
        "&lt;b&gt; ${after_name} $x {{y}}.png",
        "фото 写真 📷.png",
        "two\nlines.png",
        b"latin-\xe9.png",
    ],
)
def test_file_names_are_only_text(tmp_path: Path, name: str | bytes) -> None:
    before = picture(tmp_path / os.fsdecode(name))
    after = picture(tmp_path / "after.png")
    assert run(before, after, "-o", tmp_path / "c.html").exit_code == 0
    page = Page(tmp_path / "c.html")
    shown = os.fsdecode(name).encode("utf-8", "replace").decode()
    assert page.words.count(shown) == 4  # title, heading, caption, alternative text
    assert page.tags.count("img") == 2 and page.tags.count("script") == 1


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    before, after = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (40, 31))
    result = run(before, after, "-o", tmp_path / "c.html")
    assert result.exit_code == 1
    assert "a.png is 40 x 30" in result.output and "b.png is 40 x 31" in result.output
    assert not (tmp_path / "c.html").exists()


def test_mistakes_leave_nothing(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:500])
    deep = tmp_path / "deep.tif"
    Image.fromarray(np.full((30, 40), np.nan, np.float32)).save(deep)
    for before, output, message in (
        (tmp_path / "none.png", "c.html", "none.png"),
        (cut, "c.html", "cut.png: "),
        (deep, "c.html", "deep.tif: 1200 of its values are NaN"),
        (tmp_path, "c.html", str(tmp_path)),
        (good, "c.png", "c.png: the name must end in .html"),
    ):
        result = run(before, good, "-o", tmp_path / output)
        assert result.exit_code == 1 and message in result.output, result.output
        assert isinstance(result.exception, SystemExit)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.png", "deep.tif", "good.png"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    good, target = picture(tmp_path / "good.png"), tmp_path / "c.html"
    target.write_text("precious")
    result = run(good, good, "-o", target)
    assert result.exit_code == 1 and "--overwrite" in result.output
    assert target.read_text() == "precious"
    assert run(good, good, "-o", target, "--overwrite").exit_code == 0
    assert "<!doctype html>" in target.read_text()


def test_from_python(tmp_path: Path) -> None:
    good, target = picture(tmp_path / "good.png"), tmp_path / "new" / "c.html"
    moceir.write_comparison(str(good), good, str(target))
    first = target.read_text()
    assert "<!doctype html>" in first
    with pytest.raises(FileExistsError, match=r"c\.html"):
        moceir.write_comparison(good, good, target)
    moceir.write_comparison(good, good, target, overwrite=True)
    assert target.read_text() == first
    with pytest.raises(ConfigError, match=r"c\.png: the name must end in \.html"):
        moceir.write_comparison(good, good, tmp_path / "c.png")


def test_in_a_browser(tmp_path: Path) -> None:
    after = tmp_path / "restored.png"
    with Image.open(SAMPLE) as image:
        if SCREENSHOTS:
            from moceir import Restorer

            Restorer()(image).save(after)
        else:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(after)
    target = tmp_path / "compare.html"
    assert run(SAMPLE, after, "-o", target).exit_code == 0
    with browse(tmp_path / "profile") as (page, requested):
        page.goto(target.as_uri())
        use_slider(page)
        slider, actual = page.get_by_role("slider"), page.get_by_role("button", name="Actual size")
        actual.click()
        for value, path in (("0", after), ("100", SAMPLE)):
            slider.fill(value)
            shown = Image.open(BytesIO(page.locator(".slider").screenshot())).convert("RGB")
            with Image.open(path) as expected:
                assert shown.size == expected.size
                # The handle covers one side.
                box = (60, 0, shown.width - 60, shown.height)
                assert shown.crop(box).tobytes() == expected.crop(box).tobytes()
        # A small window: the picture shrinks to fit, and is scrolled at its actual size.
        actual.click()
        page.set_viewport_size({"width": 300, "height": 400})
        room = page.evaluate("[document.body.scrollWidth, document.documentElement.scrollHeight]")
        assert room == [300, 400]
        width = "document.querySelector('.slider').getBoundingClientRect().width"
        assert page.evaluate(width) < 300
        actual.click()
        assert page.evaluate(width) == shown.width
        actual.click()
        page.set_viewport_size({"width": 900, "height": 680})
        slider.fill("50")
        page.mouse.click(1, 1)
        screenshot(page, "compare.png")
        check_accessibility(page)
    assert {url.partition(":")[0] for url in requested} <= {"file", "data"}
