"""Both packages on Windows and macOS, as far as Linux can show it: without what Python lacks there,
and without compiled kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "MOCE_KERNELS_BACKEND": "reference"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_every_module_and_a_restored_picture(system: str, tmp_path: Path) -> None:
    with Image.open(ROOT / "samples/rainy-otters.png") as sample:
        sample.crop((0, 0, 72, 56)).save(tmp_path / "rainy.png")
    run("-m", "tests.faked_system", system, *restore(tmp_path, "there"))
    run("-c", "from moceir.commands.main import main; main()", *restore(tmp_path, "here"))
    here, there = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("here", "there"))
    assert np.array_equal(here, there)


def restore(folder: Path, result: str) -> list[str]:
    return ["restore", str(folder / "rainy.png"), "-o", str(folder / f"{result}.png")]
