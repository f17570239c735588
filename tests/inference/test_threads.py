"""CPU threads: how many, for how long, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moceir.commands.main import main
from moceir.errors import ConfigError
from moceir.inference.restorer import Restorer
from moceir.inference.threads import cpu_threads
from moceir.model import MoCEIR
from tests.small_network import SMALLEST, Restore, picture

ROOT = Path(__file__).parents[2]


def test_so_many_threads_restore_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = MoCEIR(SMALLEST), np.zeros((16, 16, 3), dtype=np.uint8)
    before, seen = torch.get_num_threads(), []
    forward = MoCEIR.forward

    def watched(self: MoCEIR, *args: object, **more: object) -> object:
        seen.append(torch.get_num_threads())
        return forward(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MoCEIR, "forward", watched)
    for threads in (1, 3, None):
        restorer = Restorer(model, "cpu", threads=threads)
        assert restorer.threads == (threads or before)
        restorer(pixels)
        assert torch.get_num_threads() == before
    assert seen == [1, 3, before]
    for wrong in (0, 1025, "2"):
        with pytest.raises(ConfigError, match=f"threads {wrong!r}: give 1 to 1024"):
            Restorer(model, "cpu", threads=wrong)  # type: ignore[arg-type]


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


FORKED = """
import os
import numpy as np, torch
from moceir import MoCEIR, Restorer
from tests.small_network import SMALLEST
restorer = Restorer(MoCEIR(SMALLEST), "cpu", threads=2)
pixels = np.zeros((64, 64, 3), dtype=np.uint8)
restorer(pixels)
child = os.fork()
if child == 0:
    assert restorer.threads == 1
    restorer(pixels)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_child_has_one_whatever_was_asked_for() -> None:
    """OpenMP's threads are not there: it would wait for ever."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", FORKED], env=environment, check=True, timeout=600)


def test_the_command_says_how_many(tmp_path: Path, restore: Restore) -> None:
    result = restore(picture(tmp_path / "a.png"), "-o", tmp_path / "b.png", "--threads", 1)
    assert result.exit_code == 0 and "device cpu, threads 1, backend" in result.output
    assert restore(tmp_path / "a.png", "-o", tmp_path / "c.png", "--threads", 0).exit_code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP tells what it was told")
@pytest.mark.parametrize(("given", "brief"), [({}, True), ({"OMP_WAIT_POLICY": "active"}, False)])
def test_threads_of_the_command_spin_briefly(given: dict[str, str], brief: bool) -> None:
    """As OpenMP itself says when PyTorch loads it; unless the environment asks for another way."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    process = subprocess.run(
        [sys.executable, "-c", "from moceir.commands.main import main; main()", "info"],
        env={**kept, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = " in process.stderr
    assert ("GOMP_SPINCOUNT = '10000'" in process.stderr) == brief


def test_a_way_to_wait_that_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back afterwards
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    CliRunner().invoke(main, ["convert", "none", "none.zip"])
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    CliRunner().invoke(main, ["convert", "none", "none.zip"])
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
