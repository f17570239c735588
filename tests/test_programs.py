"""Programs that work for long before they write: run with ``python -m``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from moceir.evaluation import experts, selective, synthetic
from moceir.training import judge, selector
from tests.small_network import picture


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (experts.main, ("IN", "-m", "compact", "-o", "OUT")),
        (judge.main, ("draw", "IN", "OUT")),
        (judge.main, ("fit", "EXAMPLES", "-o", "OUT")),
        (selective.main, ("IN", "-o", "OUT")),
        (selector.main, ("IN", "-o", "OUT")),
        (synthetic.main, ("IN", "-m", "compact", "-o", "OUT")),
    ],
)
def test_an_output_that_cannot_be_written_ends_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: click.Command, words: tuple[str, ...]
) -> None:
    for module, work in (
        (experts, "gains"), (judge, "Trials"), (judge, "fit"), (selective, "measure"),
        (selector, "train"), (synthetic, "evaluate"),
    ):  # fmt: skip
        monkeypatch.setattr(module, work, lambda *given: pytest.fail("it has begun to work"))
    picture(tmp_path / "in" / "a.png", 300, 300)
    np.savez(tmp_path / "examples.npz", x=np.zeros(1))
    (tmp_path / "file").write_text("precious")
    places = {
        "IN": tmp_path / "in", "EXAMPLES": tmp_path / "examples.npz",
        "OUT": tmp_path / "file" / "out",
    }  # fmt: skip
    result = CliRunner().invoke(command, [str(places.get(word, word)) for word in words])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}/file: a file, not a folder: name another\n"
