"""The page of ``moceir app`` in a browser."""

from __future__ import annotations

import base64
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from moceir.data.degradations import degrade, parse
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_image, to_tensor
from moceir.web import pages
from tests.browser import (
    DESKTOP,
    PHONE,
    SAMPLE,
    browse,
    check_accessibility,
    screenshot,
    use_slider,
)
from tests.web.served import encoded, restored, saved, url, weights

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytest.importorskip("uvicorn", reason="needs pip install 'moceir[app]'")
pytest.importorskip("starlette", reason="needs pip install 'moceir[app]'")

__all__ = ["url", "weights"]

OTTERS = {"name": SAMPLE.name, "mimeType": "image/png", "buffer": SAMPLE.read_bytes()}
BROKEN = {"name": "broken.png", "mimeType": "image/png", "buffer": b"text"}


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has_text=name)


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Drop files on the page, as a file manager would."""
    page.evaluate(
        """(files) => {
          const data = new DataTransfer();
          for (const [name, text] of Object.entries(files)) {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: "image/png" }));
          }
          document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: data }));
        }""",
        {name: base64.b64encode(data).decode() for name, data in files.items()},
    )


def restore(page: Page, expected: str) -> None:
    """Press Restore and wait for the summary."""
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_role("status").filter(has_text=re.compile(f"^{expected}$")).wait_for()
    page.locator("#view:not(.loading)").wait_for()


def download(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_three_pictures_one_cancelled_two_results(url: str, tmp_path: Path) -> None:
    small = {"a.png": encoded(Image.effect_noise((300, 200), 60)), "c.png": SAMPLE.read_bytes()}
    large = encoded(Image.new("RGB", (3000, 2000), (90, 120, 60)))  # of 330 tiles
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        drop(page, {"a.png": small["a.png"], "b.png": large, "c.png": small["c.png"]})
        assert page.get_by_role("listitem").count() == 3
        page.get_by_text("Options").click()
        page.get_by_label("Tiles").select_option("256")
        page.get_by_role("button", name="Restore", exact=True).click()
        row(page, "b.png").filter(has_text=re.compile(r"tile \d+ of \d\d\d")).wait_for()
        assert row(page, "c.png").locator(".state").inner_text() == "waiting"
        row(page, "b.png").get_by_role("button", name="Cancel b.png").click()
        page.get_by_role("status").filter(has_text="2 restored, 1 cancelled").wait_for()
        states = page.locator(".state").all_inner_texts()
        assert states[0].startswith("restored in ") and states[2].startswith("restored in ")
        assert states[1] == "cancelled"
        name, data = download(page, "Save all as ZIP")
        assert name == "restored.zip"
        with zipfile.ZipFile(BytesIO(data)) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["a-restored.png", "c-restored.png"]
            for name in small:
                found = Image.open(BytesIO(archive.read(name.replace(".", "-restored."))))
                expected = restored(url, small[name], "?tile=256").image
                assert found.tobytes() == expected.tobytes()


def test_what_is_removed_can_be_chosen(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, requested):
        page.goto(url)
        page.locator("input[type=file]").set_input_files(SAMPLE)
        page.get_by_text("Options").click()
        page.get_by_label("What to remove").select_option("chosen kinds")
        page.get_by_role("button", name="Restore", exact=True).click()
        assert not page.locator("form.panel").evaluate("e => e.checkValidity()")
        page.get_by_text("Options").click()  # closed, it could not show what is missing
        page.get_by_role("button", name="Restore", exact=True).click()
        assert page.get_by_label("motion blur").is_visible()
        page.get_by_label("motion blur").check()
        page.get_by_label("noise", exact=True).check()
        page.get_by_label("Light and colour").select_option("kept as they are")
        screenshot(page, "app_options.png")
        check_accessibility(page)
        restore(page, "1 restored")
        (address,) = [one for one in requested if "/restore" in one]
        assert "only=noise%2Cmotion_blur" in address and "light=0" in address
        # Other settings make another run possible, which says what it found.
        assert page.get_by_role("button", name="Restore", exact=True).is_disabled()
        page.get_by_label("What to remove").select_option("what is found")
        assert not page.get_by_label("motion blur").is_visible()
        restore(page, "1 restored")
        assert "; found" in row(page, SAMPLE.name).locator(".state").inner_text()


def test_the_input_is_there_before_the_result(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, requested):
        page.goto(url)
        assert page.get_by_role("button", name="Restore", exact=True).is_disabled()
        tiff = encoded(Image.open(SAMPLE), "TIFF")  # which the browser cannot show itself
        page.locator("input[type=file]").set_input_files(
            [OTTERS, {"name": "a.tif", "mimeType": "image/tiff", "buffer": tiff}]
        )
        for name in ("rainy-otters.png", "a.tif"):
            page.get_by_role("button", name=name, exact=True).click()
            page.locator("#view:not(.loading)").wait_for()
            assert page.locator("#shown").inner_text() == name
            assert page.locator("img.before").evaluate("e => e.naturalWidth") == 384
            assert not page.locator(".mix").is_visible()
            assert not page.get_by_role("button", name="Save", exact=True).is_visible()
        assert not any("/restore" in address for address in requested)
        restore(page, "2 restored")
        assert page.locator(".mix").is_visible()


def test_strength_is_blended_without_another_run(url: str, tmp_path: Path) -> None:
    original = SAMPLE.read_bytes()
    result = restored(url, original)
    with browse(tmp_path / "profile") as (page, requested):
        page.goto(url)
        page.locator("input[type=file]").set_input_files(SAMPLE)
        restore(page, "1 restored")
        page.get_by_role("button", name="Actual size").click()
        page.get_by_role("slider", name="How much of the image").fill("0")
        ends = [np.asarray(Image.open(BytesIO(f)), np.float32) for f in (original, result.file)]
        for strength in (0.25, 0.6, 1.0):
            page.get_by_label("Strength").fill(str(strength))
            shown = Image.open(BytesIO(page.locator(".slider").screenshot())).convert("RGB")
            expected = ends[0] + strength * (ends[1] - ends[0])
            # Without the handle; with a row more if the view begins between two pixels.
            rows = np.asarray(shown, np.float32)[:, 60:]
            starts = range(shown.height - 256 + 1)
            assert min(np.abs(rows[i : i + 256] - expected[:, 60:]).max() for i in starts) <= 2
            name, data = download(page, "Save")
            assert name == "rainy-otters-restored.png"
            with Image.open(BytesIO(data)) as found:
                assert np.abs(np.asarray(found, np.float32) - expected).max() <= 1
        page.get_by_label("Format").select_option("JPEG")
        page.get_by_label("Quality").fill("60")
        name, data = download(page, "Save")
        assert name == "rainy-otters-restored.jpg"
        expected = saved(url, original, result.file, "format=JPEG&quality=60&strength=1")
        assert data == expected.body
        assert sum("/restore" in address for address in requested) == 1


def test_errors_name_the_file_and_stand_beside_no_result(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        page.locator("input[type=file]").set_input_files([SAMPLE])
        restore(page, "1 restored")
        page.locator("input[type=file]").set_input_files([BROKEN])
        restore(page, "1 restored, 1 failed")
        reason = "broken.png: not an image in a format that Pillow reads here"
        assert row(page, "broken.png").locator(".state").inner_text() == reason
        assert not page.get_by_role("alert").is_visible()  # the result of another picture is shown
        page.get_by_role("button", name="broken.png", exact=True).click()
        assert page.get_by_role("alert").inner_text() == reason
        page.locator(".frame").wait_for(state="hidden")
        assert not page.locator("#saving").is_visible()
        # A picture whose result was there, and that fails the next time.
        page.get_by_role("button", name="rainy-otters.png", exact=True).click()
        page.locator(".mix").wait_for()
        page.get_by_text("Options").click()
        page.get_by_label("Tiles").select_option("256")
        refusal = {"status": 400, "body": "rainy-otters.png: too little memory"}
        page.route("**/restore?*", lambda route: route.fulfill(**refusal))
        restore(page, "2 failed")
        assert page.get_by_role("alert").inner_text() == "rainy-otters.png: too little memory"
        page.locator("#view:not(.loading)").wait_for()
        assert not page.locator(".mix").is_visible()
        assert not page.locator("#saving").is_visible()
        page.get_by_role("button", name="Remove rainy-otters.png").click()
        page.get_by_role("button", name="Remove broken.png").click()
        assert not page.locator("#view").is_visible()


def test_what_is_saved_is_what_was_there_when_the_button_was_pressed(
    url: str, tmp_path: Path
) -> None:
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        small = encoded(Image.effect_noise((40, 30), 60))
        drop(page, {"a:b.png": small, "A:B.png": small})
        restore(page, "2 restored")
        held: list[Route] = []
        page.route("**/save?*", lambda route: held.append(route), times=1)
        with page.expect_download() as waiting:
            with page.expect_request("**/save?*"):
                page.get_by_role("button", name="Save all as ZIP").click()
            page.get_by_label("Format").select_option("JPEG")
            page.get_by_label("Strength").fill("0")
            # Which shows the buttons anew.
            page.get_by_role("button", name="Remove A:B.png", exact=True).click()
            for name in ("Save", "Save all as ZIP"):
                assert page.get_by_role("button", name=name, exact=True).is_disabled()
            (first,) = held
            first.continue_()
        with zipfile.ZipFile(waiting.value.path()) as archive:
            assert archive.namelist() == ["a_b-restored.png", "A_B-restored-2.png"]
            expected = restored(url, small).image
            for name in archive.namelist():
                found = Image.open(BytesIO(archive.read(name)))
                assert found.format == "PNG" and found.tobytes() == expected.tobytes()
        page.get_by_role("status").filter(has_text="2 images saved").wait_for()
        assert page.get_by_role("button", name="Save", exact=True).is_enabled()
        page.get_by_role("button", name="Remove a:b.png").click()
        assert page.locator("#view img[src]").count() == 0


def test_a_file_that_cannot_be_read_is_not_the_fault_of_the_server(
    url: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.png"
    gone.write_bytes(SAMPLE.read_bytes())
    with browse(tmp_path / "profile", expected="ERR_FILE_NOT_FOUND") as (page, _):
        page.goto(url)
        page.locator("input[type=file]").set_input_files(gone)
        page.locator("#view:not(.loading)").wait_for()
        gone.unlink()
        restore(page, "1 failed")
        reason = "gone.png: cannot be read: it is a folder, or was changed or removed"
        assert row(page, "gone.png").locator(".state").inner_text() == reason


def test_why_a_restored_picture_cannot_be_shown(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        tiff = encoded(Image.effect_noise((40, 30), 60), "TIFF")
        reason = "a.tif: too little memory"
        page.route("**/degrade?*", lambda route: route.fulfill(status=400, body=reason))
        files = [OTTERS, {"name": "a.tif", "mimeType": "image/tiff", "buffer": tiff}]
        page.locator("input[type=file]").set_input_files(files)
        page.get_by_role("button", name="Restore", exact=True).click()
        page.get_by_role("status").filter(has_text="2 restored").wait_for()
        page.get_by_role("button", name="a.tif", exact=True).click()
        page.get_by_role("alert").filter(has_text=reason).wait_for()


def test_degraded_first(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        page.get_by_text("Options").click()
        page.locator("input[type=file]").set_input_files(SAMPLE)
        page.get_by_label("Degrade first").select_option("low_light,noise")
        restore(page, "1 restored")
        page.get_by_label("Strength").fill("0")
        expected = degrade(to_tensor(open_rgb(SAMPLE))[None], parse("low_light,noise"), seed=0)
        with Image.open(BytesIO(download(page, "Save")[1])) as found:
            assert found.tobytes() == to_image(expected[0]).tobytes()


def test_zoom_by_button_key_and_wheel(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        page.locator("input[type=file]").set_input_files(SAMPLE)
        restore(page, "1 restored")
        frame = page.locator(".frame")

        def width() -> float:
            return page.locator(".slider").evaluate("e => e.getBoundingClientRect().width")

        def scrolled() -> list[float]:
            return frame.evaluate("e => [e.scrollLeft, e.scrollTop]")

        fits = width()
        page.get_by_role("button", name="Zoom in").click()
        assert width() == pytest.approx(1.5 * fits, rel=1e-3)
        frame.focus()
        page.keyboard.press("+")
        assert width() == pytest.approx(2.25 * fits, rel=1e-3)
        middle = scrolled()
        room = frame.evaluate(
            "e => [e.scrollWidth - e.clientWidth, e.scrollHeight - e.clientHeight]"
        )
        assert middle == pytest.approx([side / 2 for side in room], abs=2)
        # Dragged by the picture, not by the line, which stays where it is.
        box = frame.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 4
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 40, y - 30)
        page.mouse.up()
        assert scrolled() == pytest.approx([middle[0] + 40, middle[1] + 30], abs=1)
        split = page.get_by_role("slider", name="How much of the image")
        assert split.input_value() == "50"
        line = page.locator(".line").bounding_box()
        assert line is not None
        page.mouse.move(line["x"] + line["width"] / 2, y)
        page.mouse.down()
        page.mouse.move(line["x"] + line["width"] / 2 + 60, y)
        page.mouse.up()
        assert float(split.input_value()) > 50
        page.keyboard.press("0")
        assert width() == pytest.approx(fits)
        page.mouse.move(x, y)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
        page.wait_for_function(
            "w => document.querySelector('.slider').getBoundingClientRect().width > w", arg=fits
        )
        # Everything that is not hidden can be reached with the Tab key.
        page.locator("#details summary").click()
        reached = set()
        page.locator("input[type=file]").focus()
        for _ in range(40):
            reached.add(
                page.evaluate("document.activeElement.id || document.activeElement.className")
            )
            page.keyboard.press("Tab")
        assert {"name", "frame zoomed pixels", "strength", "format", "save", "save-all"} <= reached


def test_accessible_at_every_width_and_in_every_scheme(url: str, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (page, requested):
        page.goto(url)
        check_accessibility(page)
        page.locator("input[type=file]").set_input_files([OTTERS, BROKEN])
        check_accessibility(page)
        page.get_by_text("Options").click()
        restore(page, "1 restored, 1 failed")
        page.locator("#details summary").click()
        page.get_by_role("button", name="Zoom in").click()
        check_accessibility(page)
        page.get_by_role("button", name="broken.png", exact=True).click()
        check_accessibility(page)
    assert f"{url}page.css" in requested
    for address in requested:
        assert address.startswith((url, f"blob:{url}", "data:")), address


def test_pictures_of_the_page(url: str, tmp_path: Path) -> None:
    """Also that nothing is wider than a phone, and that details tell which experts ran."""
    with browse(tmp_path / "profile") as (page, _):
        page.goto(url)
        second = SAMPLE.parents[1] / "docs/pictures/low_light.png"
        drop(page, {path.name: path.read_bytes() for path in (SAMPLE, second)})
        restore(page, "2 restored")
        use_slider(page)
        page.mouse.click(1, 1)  # takes the focus away
        screenshot(page, "app.png")
        page.locator("#details summary").click()
        rows = page.locator("tbody tr")
        assert rows.count() == 3
        for found, scale in zip(rows.all(), (4, 2, 1), strict=True):
            cells = found.locator("td").all_inner_texts()
            side = 4 * 2 ** (int(cells[2]) - 1)
            assert cells[3:] == [
                f"{side} x {side}",
                f"{side * scale} x {side * scale} pixels",
                "the whole image",
            ]
        for size in (DESKTOP, PHONE):
            page.set_viewport_size(size)
            assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
        page.locator("#details summary").click()
        screenshot(page, "app_phone.png")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_borders_have_a_contrast_of_three_to_one() -> None:
    """WCAG 1.4.11, which axe does not check."""
    found = re.findall(r"--(\w[\w-]*): light-dark\((#\w{6}), (#\w{6})\)", pages.read("page.css"))
    colours = {name: schemes for name, *schemes in found}
    for border in ("edge", "accent"):
        for ground in ("paper", "panel"):
            for a, b in zip(colours[border], colours[ground], strict=True):
                dark, light = sorted((luminance(a), luminance(b)))
                assert (light + 0.05) / (dark + 0.05) >= 3, (border, ground)
