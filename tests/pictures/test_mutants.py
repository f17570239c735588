"""A few damaged pictures of every format, and that their harness sees faults; 3,000 by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.pictures import mutants

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it"
)


def test_damaged_pictures_are_read_or_refused() -> None:
    number = 2 * len(mutants.seeds())
    report = mutants.run(5, list(range(number)))
    assert report.faults == {}
    assert report.outcomes["read"] > 9 and report.outcomes["refused"] > 9
    assert sum(report.outcomes.values()) == number
    assert 10**7 < report.peak < mutants.BYTES


def test_whole_pictures_are_read() -> None:
    for name, data in mutants.seeds().items():
        assert mutants.tried(data) == ("refused" if name == "SPIDER" else "read"), name


def test_a_mutant_depends_on_its_numbers_alone() -> None:
    files = mutants.seeds()
    made = [mutants.mutant(1, number, files) for number in range(200)]
    assert made[:20] == [mutants.mutant(1, number, files) for number in range(20)]
    assert made[:20] != [mutants.mutant(2, number, files) for number in range(20)]
    assert {name for name, _ in made} == set(files)
    assert sum(data == files[name] for name, data in made) < 20


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("tried", lambda data: 1 / 0, "ZeroDivisionError"),
        ("SECONDS", -1.0, " s"),
        ("BYTES", 1, " GB"),
    ],
)
def test_faults_are_seen(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: object,
    fault: str,
) -> None:
    monkeypatch.setattr(mutants, name, value)
    mutants.child(1, [0])
    begun, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert begun == {"begun": 0} and fault in done["fault"]
    report = mutants.Report()
    report.take(done)
    assert fault in report.faults[0]


def test_processes_that_die_or_hang_are_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(mutants, "LOST", 0.5)
    for what, fault in (("kill -SEGV $$", "died (-11)"), ("exec sleep 60", "no answer for 0.5 s")):
        python.write_text(f"#!/bin/sh\necho '{{\"begun\": 7}}'\n{what}\n")
        python.chmod(0o755)
        report = mutants.run(1, [7])
        assert fault in report.faults[7] and report.outcomes["fault"] == 1
