"""The measurements of ``--only`` and ``--auto``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from moceir.data.kinds import KINDS
from moceir.evaluation import selective
from moceir.evaluation.selective import main, measure, tables
from moceir.inference.restorer import Restorer
from tests.browser import SAMPLE

ROOT = Path(__file__).parents[2]

PICTURES = [SAMPLE.parent / "clean" / f"{name}.png" for name in ("casa-mila", "tea-gardens")]


@pytest.fixture(scope="module")
def bundled() -> Restorer:
    return Restorer("compact", "cpu")


def test_a_row_for_each_question(bundled: Restorer) -> None:
    rows = measure(bundled, PICTURES, "noise,rain", "medium", 128)
    assert [row["only"] for row in rows] == ["found", "noise", "rain"]
    found, noise, rain = rows
    assert found["found"]["noise"] == 2 and found["untouched"] == 0
    assert noise["psnr"] > noise["psnr_input"] + 2 and noise["worst_luminance_percent"] < 1
    # Who wants the rain away and nothing else loses by having everything removed.
    assert rain["psnr"] > rain["psnr_everything"]
    text = tables(rows, 2)
    assert "| `noise,rain` medium | rain |" in text and "noise 2" in text


def test_clean_pictures(bundled: Restorer) -> None:
    found, *others = measure(bundled, PICTURES, "", "medium", None)
    assert found["untouched"] == 2 and not any(found["found"].values())
    assert found["psnr"] == 100 and {row["only"] for row in others} == set(selective.NOT_THERE)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 32)).save(tmp_path / "in" / "a.png")
    monkeypatch.setattr(selective, "PAIRS", ("noise,haze",))
    output = tmp_path / "rows.json"
    result = CliRunner().invoke(main, [str(tmp_path / "in"), "-o", str(output), "--side", "32"])
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 4 + 2 * 3 * len(KINDS) + 3
    assert result.stdout.count("\n| `") == len(rows)


def test_the_documentation_has_the_measured_numbers() -> None:
    rows = json.loads((ROOT / "bench/results/selective_val.json").read_text())["rows"]
    text = (ROOT / "docs/selective.md").read_text()
    for row in rows:
        if row["strength"] in ("", "medium") and row["only"] != "found":
            ends = f"| `{row['only']}` | "
            numbers = f"{row['psnr_everything']:.1f} | {row['psnr']:.1f} |"
            before = "equal" if row["degradation"] == "none" else f"{row['psnr_input']:.1f}"
            assert f"{ends}{before} | {numbers}" in text, row
    for kind in KINDS:
        for strength in ("slight", "medium", "strong"):
            (row,) = (r for r in rows if (r["degradation"], r["strength"]) == (kind, strength)
                      and r["only"] == "found")  # fmt: skip
            column = KINDS.index(kind) + 1
            (line,) = (one for one in text.splitlines() if one.startswith(f"| {strength}: found"))
            assert int(line.split("|")[column + 1]) == row["found"][kind]
