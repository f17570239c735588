"""A real browser for the tests of the web pages, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

SAMPLE = Path(__file__).parent.parent / "samples" / "rainy-otters.png"

SCREENSHOTS = os.environ.get("MOCEIR_SCREENSHOTS")
"""A folder: the browser tests then use the bundled weights and leave screenshots in it."""

DESKTOP = {"width": 1100, "height": 800}
PHONE = {"width": 390, "height": 844}

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)


@contextmanager
def browse(profile: Path, expected: str = "status of 400") -> Iterator[tuple[Page, list[str]]]:
    """A page of an empty chromium and the addresses it asks for; errors in the page are raised, but
    for those with the text that is expected."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    requested: list[str] = []
    complaints: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        # A refusal by the server, which the page is to show, is told to the console as well.
        if expected not in message.text:
            complaints.append(message.text)

    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile,
            executable_path=chromium,
            args=FLAGS,
            has_touch=True,
            viewport=DESKTOP,
        )
        context.on("request", lambda request: requested.append(request.url))
        page = context.pages[0]
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        try:
            yield page, requested
        finally:
            context.close()
            if complaints:
                pytest.fail("\n".join(complaints))


def use_slider(page: Page) -> None:
    """Move a page's slider by mouse, touch and keyboard, and leave it in the middle."""
    frame = page.locator(".slider")
    slider = page.get_by_role("slider", name="How much of the image shows before")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 3

    def at(share: float) -> float:
        return box["x"] + share * box["width"]

    page.mouse.move(at(0.5), y)
    page.mouse.down()
    page.mouse.move(at(0.2), y)
    assert slider.input_value() == "20"
    page.mouse.move(at(-0.5), y)
    page.mouse.up()
    page.mouse.move(at(0.7), y)
    assert slider.input_value() == "0"
    page.touchscreen.tap(at(0.75), y)
    assert slider.input_value() == "75"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "1 % before, 99 % after"
    assert frame.evaluate("e => e.style.getPropertyValue('--at')") == "1%"
    slider.fill("50")


def screenshot(page: Page, name: str) -> None:
    """Leave a picture of the whole page, in 256 colours, if asked for."""
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        with Image.open(BytesIO(page.screenshot(full_page=True))) as image:
            small = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT)
            small.save(Path(SCREENSHOTS) / name, optimize=True)


def check_accessibility(page: Page) -> None:
    """Raises AssertionError with what axe-core finds wrong with a page: at desktop and phone width,
    light and dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for size in (DESKTOP, PHONE):
        page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = axe.run(page)
            assert found.violations_count == 0, (size, scheme, found.generate_report())
    page.set_viewport_size(DESKTOP)
    page.emulate_media(color_scheme="light")
