from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import report
from bench.lease import __main__ as lease
from bench.lease import checks
from bench.lease.__main__ import alone, beside
from bench.lease.checks import _redrawn
from bench.lease.table import markdown
from bench.lease.training import failed_operators
from moce_kernels import backends, registry
from moceir.evaluation.check import TOGETHER
from tests.ops.samples import spec_of

ROOT = Path(__file__).parents[1]


def test_dry_run(tmp_path: Path) -> None:
    """Every step of a lease on a CPU, and what is written."""
    out = tmp_path / "found"
    done = subprocess.run(
        [sys.executable, "-m", "bench.lease", str(out), "--dry-run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "lease.jsonl").read_text().splitlines()]
    steps = {r["step"]: r["outcome"] for r in rows if "outcome" in r}
    planned = [*beside(True), *alone(out, None, True)]
    assert steps == {s.name: "passed" for s in planned}
    checked = {r["operator"] for r in rows if "sample" in r}
    assert checked == set(registry.names())
    assert all(r["ok"] for r in rows if "ok" in r)
    written = (out / "lease.md").read_text()
    assert "| moce_ir_s 1280 x 720 | float32 | ours | eager |" in written
    assert (
        "| fft_attention | 1x48x32x32-channels_last-window32 | float32 | forward | cpu |" in written
    )


def test_a_slice_is_trained_at_the_end(tmp_path: Path) -> None:
    """From the state that is given to one in the folder of what is found."""
    words = ["--dry-run", "--only", "versions", "--train", "1", "--pictures", "samples/clean"]
    states = ("first", str(tmp_path / "not there")), ("second", str(tmp_path / "first/state"))
    for name, given in ((name, ["--state", state]) for name, state in states):
        done = subprocess.run(
            [sys.executable, "-m", "bench.lease", str(tmp_path / name), *words, *given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((tmp_path / name / "state").iterdir())) == 1
        assert "| 3 |" in (tmp_path / name / "lease.md").read_text().split("A slice")[1]


def test_operators_that_failed_are_left_to_pytorch() -> None:
    row = {"operator": "routing_plan", "backend": "triton", "dtype": "float32", "sample": "1"}
    rows = [
        {**row, "ok": True},
        {**row, "operator": "pointwise_conv", "ok": False},
        {**row, "operator": "fft_attention", "dtype": "float16", "ok": False},  # nothing trains so
        {**row, "operator": "depthwise_conv", "ok": False},
        {"graph": "a check of something else", "ok": False},
        {"network": "compact", "operator": TOGETHER, "backend": "default", "ok": False},
    ]
    found = failed_operators(rows)
    assert found == "depthwise_conv=reference,pointwise_conv=reference"
    assert backends.parse(found, "the environment")
    assert failed_operators(rows[:1]) == ""


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("print('{\"ok\": true}'); print('{of a test}'); exit(3)", "failed"),
        ("import signal; print('{\"ok\": true}', flush=True); signal.pause()", "timed out"),
    ],
)
def test_a_step_that_fails_or_hangs_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, outcome: str
) -> None:
    """With what it had found before."""
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **more: popen([sys.executable, "-c", program], **more)
    )
    limit = 60 if outcome == "failed" else 3
    log = lease.Log(tmp_path / "lease.jsonl")
    assert not lease.Running(lease.Step("a", "checks.graph", (), limit), log, True).finish()
    first, last = map(json.loads, log.path.read_text().splitlines())
    assert first == {"step": "a", "ok": True}
    assert (last["step"], last["outcome"]) == ("a", outcome)


def test_a_step_that_is_compiled_beside_others_measures_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still for as long as it is paused, which is no part of its limit."""
    program = """if True:
        input()
        print('{"run": "compile"}', flush=True)
        input()
        print('{"run": "eager"}', flush=True)"""
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **more: popen([sys.executable, "-c", program], **more)
    )
    log = lease.Log(tmp_path / "lease.jsonl")
    running = lease.Running(lease.Step("a", "measure.compiled", (), 60), log, True)
    left = running.left()
    with running.paused():
        running.go()
        assert not running.ready.wait(1)
        meanwhile = running.left()
    assert meanwhile <= left - 1 < running.left()
    assert running.ready.wait(60)
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert rows == [{"step": "a", "run": "compile"}]
    running.go()
    assert running.finish()
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert rows[1] == {"step": "a", "run": "eager"} and rows[2]["outcome"] == "passed"


def test_tests_that_are_all_skipped_are_no_success(tmp_path: Path) -> None:
    """But for one that needs no GPU."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_anywhere(): pass\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_on_a_gpu(n): pytest.skip('no GPU')\n"
    )
    (row,) = checks.tests(torch.device("cpu"), str(tmp_path / "test_it.py"))
    assert (row["passed"], row["skipped"], row["ok"]) == (1, 3, False)


def test_a_sample_that_failed_is_drawn_again() -> None:
    """The reference against itself: the errors are plain PyTorch's."""
    sample = next(spec_of("pointwise_conv").samples())
    found = _redrawn(sample, "out", "reference", torch.bfloat16, torch.device("cpu"))
    assert found["ours"] == found["plain"] > 0


def test_what_is_wrong_is_in_the_table() -> None:
    """A value that is off, an operator that raises, a number that is not one."""
    row = {"step": "s", "operator": "o", "backend": "b", "dtype": "float32", "sample": "1x1"}
    rows = [
        {**row, "ok": False, "share": 3.5, "tensor": "out"},
        {**row, "ok": False, "problem": "CompilationError"},
        {**row, "ok": True, "share": 0.5},
    ]
    text = markdown(rows)
    assert "| o | b | float32 | 3 | 1 | 9e+09 |" in text
    assert '"tensor": "out"' in text and "CompilationError" in text


def test_rates_in_the_table() -> None:
    def bench(contender: str, median: float) -> dict:
        info = {"operator": "op", "size": "1", "dtype": "float32", "direction": "forward"}
        info |= {"contender": contender, "calls": 2, "bytes": 1e9, "flops": 3e9}
        return {"extra_info": info, "stats": {"median": median}}

    data = {
        "machine_info": {
            "moce": {
                "device": "D",
                "torch": "2",
                "commit": "c",
                "copy_bytes_per_second": 4e9,
                "matrix_flops_per_second": {"float32": 30e9},
            }
        },
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [bench("reference", 4.0), bench("cpu", 1.0)],
    }
    rows = report.table(data).splitlines()[-2:]
    assert rows[0].endswith("| cpu | 500.000 ms | 4.00x | 2.0 | 50 % | 6.0 | 20 % |")
    assert rows[1].endswith("| reference | 2000.000 ms | 1.00x | 0.5 | 12 % | 1.5 | 5 % |")
