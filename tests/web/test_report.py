"""The report of ``moceir evaluate`` in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moceir.evaluation.run import Evaluation, Measurement
from moceir.web.report import Examples, page
from tests.browser import browse, check_accessibility, screenshot
from tests.evaluation.test_tables import ABOUT, evaluation
from tests.evaluation.test_testsets import COMPLETE


@pytest.fixture
def report(tmp_path: Path) -> Path:
    examples = Examples()
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    for name, psnr in (("best.png", 31.0), ("worst.png", 19.0)):
        row = Measurement("sots", name, 60, 40, 20.0, 0.5, psnr, 0.9, None, 1, 0, (1, 2))
        examples.add(row, image, image.flip(2))
    found: Evaluation = evaluation(("sots", COMPLETE["sots"][0]), ("rain100l", ["rain-1.png"]))
    path = tmp_path / "report.html"
    path.write_text(page(Evaluation(found.rows, {**ABOUT, "model": "<b>"}), examples))
    return path


def test_in_a_browser(report: Path, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as (tab, requested):
        tab.goto(report.as_uri())
        assert tab.get_by_role("heading", level=1).inner_text() == "Evaluation of <b>"
        captions = tab.locator("caption").all_inner_texts()
        assert len(captions) == tab.locator("table").count() == 3
        assert all("cropped about the middle to multiples of 16" in text for text in captions)
        assert tab.get_by_text("30.00 / 0.900 (1 of 100 images)").count() == 2
        assert tab.get_by_text("30.00 / 0.900 (500 images)").count() == 2
        figures = tab.locator("figure")
        assert figures.count() == 2
        for figure in figures.all():
            width = "e => e.getBoundingClientRect().width"
            slider = figure.locator(".slider")
            before = slider.evaluate(width)
            figure.get_by_role("button", name="Zoom in").click()
            assert slider.evaluate(width) == pytest.approx(1.5 * before, rel=1e-3)
        check_accessibility(tab)
        screenshot(tab, "report.png")
    assert {address.partition(":")[0] for address in requested} <= {"file", "data"}
