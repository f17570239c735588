"""Kernels that are compiled ahead are those that a launch looks for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from moce_kernels import absent_gpu, backends, depthwise_conv, pointwise_conv, triton_kernels
from moce_kernels.ops import _library
from moce_kernels.precompile import capability, collected
from moceir.commands.main import main
from moceir.config import preset
from moceir.errors import ConfigError
from moceir.training import precompile as training_precompile
from moceir.training.precompile import network, precompile_network
from tests.ops.samples import SPECS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
ROOT = Path(__file__).parents[2]


def variants(work: Callable[[], object], library: bool = False) -> set[tuple[str, Any]]:
    """The kernels that the work launches, each with Triton's key of how it was specialised."""
    found: dict[Any, Any] = {}
    with collected(90, found, library):
        work()
    return {(kernel.__name__, key) for kernel, key in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fake_tensors_launch_what_real_ones_do(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton specialises by the divisibility of addresses and sizes."""
    table = [(spec.name, sample) for spec in SPECS for sample in spec.launched()]

    def work() -> None:
        for operator, sample in table:
            if operator != "routing_plan":
                getattr(_library.kernels("triton"), operator)(*sample.raw(**sample.cast(dtype)))
        x = torch.empty(2, 8, 6, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for first in range(4):  # channels whose address is a multiple of 2, 4, 8 or 16 elements
            part = x[:, first : first + 4]
            _library.kernels("triton").depthwise_conv(part, torch.empty(4, 1, 3, 3), None, False)

    fake = variants(work)
    monkeypatch.setattr(absent_gpu, "FakeTensorMode", lambda **_: contextlib.nullcontext())
    assert len(fake) > 20
    assert fake == variants(work)


def test_a_machine_with_the_library_takes_fewer_kernels_from_triton() -> None:
    def work() -> None:
        x = torch.empty(1, 32, 16, 16).contiguous(memory_format=torch.channels_last)
        pointwise_conv(depthwise_conv(x, torch.empty(32, 1, 3, 3)), torch.empty(8, 32))

    assert {name for name, _ in variants(work)} == {"_depthwise_conv", "_pointwise_conv"}
    assert {name for name, _ in variants(work, library=True)} == {"_pointwise_conv"}


def test_the_kernels_of_a_network() -> None:
    inference = variants(network("compact", "1x3x32x48", "bfloat16"))
    step = variants(network("compact", "1x3x32x48", "bfloat16", "train"))
    assert {name for name, _ in inference} < {name for name, _ in step}
    with pytest.raises(ConfigError, match="direction 'both': choose inference or train"):
        network("compact", "1x3x32x48", "bfloat16", "both")


def test_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of every dtype, and of every way to multiply where that makes a difference."""
    asked: list[Any] = []

    def counted(work: Callable[[], object], *more: object) -> str:
        asked.append((len(variants(work)), *more))
        return "done"

    monkeypatch.setattr(training_precompile, "precompile", counted)
    small = (1, 3, 32, 48)
    one = precompile_network(preset("compact"), small, ["bfloat16"], arch="9.0", jobs=3)
    assert one == "done" and asked[0][1:] == (90, 3, None)
    both = ["bfloat16", "float32"]
    precompile_network(preset("compact"), small, both, ["ieee", "tf32"], arch="8.0", library=True)
    assert asked[1][0] > asked[0][0] and asked[1][1:] == (80, None, True)
    with pytest.raises(ConfigError, match="dtype 'int8': choose float32"):
        precompile_network(preset("compact"), small, ["int8"], arch="9.0")
    with pytest.raises(ValueError, match="architecture '9': give a compute capability"):
        precompile_network(preset("compact"), small, arch="9")


def test_nothing_is_left_behind() -> None:
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    before = depthwise_conv(x, weight), backends.choose
    with pytest.raises(ZeroDivisionError):
        variants(lambda: 1 // 0)
    assert torch.equal(depthwise_conv(x, weight), before[0])
    assert backends.choose is before[1]


TINY = """
import torch
from moce_kernels import depthwise_conv

def tiny(size):
    def work():
        x = torch.empty(1, 16, int(size), 16).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        depthwise_conv(x, torch.empty(16, 1, 3, 3)).sum().backward()
    return work
"""


def test_the_command_fills_the_cache_once(tmp_path: Path) -> None:
    (tmp_path / "works.py").write_text(TINY)
    own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(tmp_path)])
    own["TRITON_CACHE_DIR"] = str(tmp_path / "cache")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "moce_kernels.precompile", *words]
        return subprocess.run(command, capture_output=True, text=True, env=own, cwd=tmp_path)

    first = run("works:tiny", "16", "--arch", "9.0", "--jobs", "1")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("2 kernels, 2 of them compiled"), first.stdout
    assert any((tmp_path / "cache").rglob("_depthwise_conv.cubin"))
    again = run("works:tiny", "16", "--arch", "9.0", "--jobs", "1")
    assert again.stdout.startswith("2 kernels, 0 of them compiled"), again.stderr

    wrong = run("works:none", "--arch", "9.0")
    assert wrong.returncode == 2 and "no attribute 'none'" in wrong.stderr


def test_compiling_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    seen = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **what: seen.append(what))
    triton_kernels._say_when_compiling()

    def compiled(module: str, cache_hit: bool) -> int:
        source = SimpleNamespace(fn=SimpleNamespace(module=module))
        knobs.compilation.listener(src=source, cache_hit=cache_hit, times=None)
        return len(caplog.records)

    ours = "moce_kernels.triton_kernels.depthwise_conv"
    assert compiled(ours, cache_hit=True) == 0
    assert compiled("somebody.elses", cache_hit=False) == 0
    assert compiled(ours, cache_hit=False) == 1
    assert compiled(ours, cache_hit=False) == 1
    assert "Compiling Triton kernels" in caplog.text
    assert len(seen) == 4  # who listened before still does


def test_capability() -> None:
    assert capability("9.0") == 90 and capability("12.0") == 120
    for wrong in ("hopper", "7.5"):
        with pytest.raises(ValueError, match=f"'{wrong}': give a compute capability from 8.0 on"):
            capability(wrong)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--arch", "9"), "architecture '9': give a compute capability from 8.0 on, such as 9.0"),
        (("--arch", "9.0", "--shape", "3x720x1280"), "give images x 3 x height x width"),
        (("--arch", "9.0", "--preset", "large"), "unknown preset 'large'"),
    ],
)
def test_what_the_command_refuses(words: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(main, ["precompile", *words])
    assert result.exit_code == 1
    assert says in result.output
