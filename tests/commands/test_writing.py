"""Whatever a command writes is there whole or not at all, whichever way writing fails."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from moceir.evaluation.run import Evaluation, Measurement, write_results
from moceir.model import MoCEIR, save_weights
from tests.evaluation.trees import picture
from tests.published_weights import TINY

OUTPUTS = {
    "restore": "o.png o.jpg o.tif",
    "degrade": "o.png o.webp",
    "compare": "o.html",
    "convert": "o.safetensors o.ckpt o.pth",
    "export": "o.onnx",
    "errors": "o.png o.svg o.pdf",
    "quality": "o.png",
    "routes": "o.pdf",
    "evaluate": "pictures.csv results.json results.md report.html",
}
"""What each command writes; those of ``evaluate`` by one call, the others one by one."""

WORDS = {
    "restore": "restore a.png -o {} -m w.safetensors --device cpu --overwrite",
    "degrade": "degrade a.png -o {} --kind noise --overwrite",
    "compare": "compare a.png b.png -o {} --overwrite",
    "convert": "convert w.safetensors {} --overwrite",
    "export": "export {} -m w.safetensors --overwrite",
    "errors": "figures errors -m w.safetensors --pair a.png b.png --device cpu -o {} --overwrite",
    "quality": "figures quality results/results.json -o {} --overwrite",
    "routes": "routes a.png -m w.safetensors --kinds noise --device cpu -o {} --overwrite",
    "evaluate": "evaluate -m w.safetensors --pair degraded clean --device cpu -o . --overwrite",
}

if importlib.util.find_spec("onnxscript") is None:
    del WORDS["export"]

FAULTS = ("full", "broken", "refused", "killed")
"""No room on the disk; an error when it is to keep what was written; a rename that is not allowed;
a signal before the name is given."""

PROGRAM = """
import errno, json, os, resource, signal, sys
import matplotlib, torch
from click.testing import CliRunner
from moceir.commands.main import main
import moceir.inference.batch, moceir.evaluation.methods, moceir.evaluation.protocol
import moceir.figures.errors, moceir.figures.quality, moceir.figures.routes, moceir.web.report
import moceir.data.degradations, moceir.inference.export, moceir.model, moceir.web.compare

def fails(code):
    def fail(*args, **options):
        raise OSError(code, os.strerror(code))
    return fail

for case in json.load(sys.stdin):
    reading, writing = os.pipe()
    child = os.fork()  # of a process that has loaded torch
    if not child:
        os.chdir(case["folder"])
        if case["fault"] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        elif case["fault"] == "broken":
            os.fsync = fails(errno.EIO)
        elif case["fault"] == "refused":
            os.replace = os.link = fails(errno.EACCES)
        else:
            os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        result = CliRunner().invoke(main, case["words"])
        os.write(writing, json.dumps([result.exit_code, result.output]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(json.loads(said) if said else [status, ""]), flush=True)
"""


class Case(NamedTuple):
    command: str
    fault: str
    names: list[str]
    """Of its results, which are there before."""
    folder: Path

    @property
    def words(self) -> list[str]:
        return WORDS[self.command].format(*self.names).split()


def cases(folder: Path) -> list[Case]:
    found = []
    for command in WORDS:
        names = OUTPUTS[command].split()
        for group in [names] if command == "evaluate" else [[name] for name in names]:
            # The exporter takes seconds each time.
            for fault in FAULTS[:1] if command == "export" else FAULTS:
                place = folder / f"{command}-{group[0]}-{fault}"
                found.append(Case(command, fault, group, place))
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Case, int, str]]:
    """Every case, tried once: its exit status and what it said."""
    folder = tmp_path_factory.mktemp("writing")
    torch.manual_seed(0)
    save_weights(MoCEIR(TINY), folder / "w.safetensors")
    for name in ("a.png", "b.png", "degraded/a.png", "clean/a.png"):
        picture(folder / name, seed=len(name))
    names = (1, 22, 23, 55, 79, 111, 146, 179, 493, 547, 665, 669, 748, 778, 780)
    measured = (8, 8, 20, 0.5, 30, 0.9, None, 1, 0, (1, 2, 3))
    rows = [Measurement("lolv1", f"{name}.png", *measured) for name in names]
    about: dict[str, Any] = {name: "VGG" for name in ("lpips", "niqe", "brisque", "musiq")}
    about |= {"protocol": "published", "seed": 0, "tile": 0, "moceir": "1", "torch": "2"}
    about |= {"model": "x", "device": "cpu", "precision": "float32", "parameters": 1}
    about["network"] = TINY.to_dict()
    write_results(Evaluation(rows, about), folder / "results")
    tried = cases(folder / "cases")
    for case in tried:
        case.folder.mkdir(parents=True)
        for name in case.names:
            (case.folder / name).write_text("before")
        for name in ("w.safetensors", "a.png", "b.png", "degraded", "clean", "results"):
            if name not in case.names:
                (case.folder / name).symlink_to(folder / name)
    todo = [{"folder": str(c.folder), "fault": c.fault, "words": c.words} for c in tried]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(todo),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(tried), run.stderr
    return [(case, *line) for case, line in zip(tried, lines, strict=True)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", WORDS)
def test_nothing_is_half_written(
    results: list[tuple[Case, int, str]], command: str, fault: str
) -> None:
    mine = [r for r in results if (r[0].command, r[0].fault) == (command, fault)]
    if command == "export" and fault != "full":
        assert not mine
        return
    assert mine
    for case, status, said in mine:
        for name in case.names:
            assert (case.folder / name).read_text() == "before", (name, said)
        left = [p.name for p in case.folder.iterdir() if not p.is_symlink()]
        left = [name for name in left if name not in case.names]
        if fault == "killed":
            assert status == -signal.SIGKILL, said
            assert all(name.startswith(".") and name.endswith(".part") for name in left)
            continue
        assert (status, left) == (1, []), said
        assert not any(word in said for word in ("Traceback", "unexpected", ".part")), said
        reason = {"full": "File too large", "broken": "Input/output error"}.get(fault, "denied")
        assert any(name in said for name in case.names) and reason in said, said
