"""The Triton kernels on a machine without a GPU: interpreted, and compiled but not run.

On one with a GPU the tests of the table (test_all_ops.py) run them as they are.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moce_kernels import registry
from tests import oldest
from tests.ops.spec import selection

ROOT = Path(__file__).parents[2]
SLOW = pytest.mark.slow

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


OPERATORS = registry.names("triton")
# What launches the kernels of other operators and has none of its own.
COMPOSED = [o for o in registry.composed() if registry.OPERATORS[o].gradient_calls]


@pytest.mark.parametrize(
    "operator",
    [pytest.param(o, marks=SLOW if o in COMPOSED else ()) for o in OPERATORS],
)
@pytest.mark.parametrize(
    "test",
    [
        "twice_plain_pytorch and float32",
        *(
            pytest.param(t, marks=SLOW)
            for t in ("twice_plain_pytorch", "opcheck", "compiles_whole")
        ),
    ],
)
def test_interpreted(test: str, operator: str) -> None:
    """The table's tests in a process of its own: the variable acts when Triton is imported."""
    chosen = f"{test} and {selection(operator, 'triton')}"
    if test == "compiles_whole":
        chosen += " and aot_eager"
    arguments = ("-m", "pytest", "-q", "tests/ops/test_all_ops.py", "-k", chosen)
    tests = python(*arguments, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert " passed" in tests, tests
    assert " skipped" not in tests, tests


def test_properties_interpreted() -> None:
    """Drawn shapes, strides and numbers; an operator each, all in one process."""
    files = [f"tests/ops/test_{operator}.py" for operator in OPERATORS]
    arguments = ("-m", "pytest", "-q", *files, "-k", "test_any and triton")
    tests = python(*arguments, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert f"{len(files)} passed" in tests and "skipped" not in tests, tests


def test_launches_of_a_layer_do_not_grow_with_the_batch() -> None:
    """Nor is a value read back to the host or an image copied: that ends the program."""
    runs = [json.loads(line) for line in python("tests/ops/count_launches.py").splitlines()]
    assert [(run.pop("batch"), run.pop("top_k")) for run in runs] == [
        (2, 1),
        (7, 1),
        (2, 2),
        (7, 2),
    ]
    for small, large in (runs[:2], runs[2:]):
        assert small == large
    assert all(len(run["forward"]) == 6 for run in runs)  # the plan's, and 5
    assert all(len(run["backward"]) == 19 for run in runs)


# Rather than let one program less run, ptxas keeps up to four numbers there outside of loops.
SPILLED_BYTES = {
    "_gram": 16,
    "_norm_gate": 8,
    "_pointwise_conv": 16,
    "_weight_gradient": 16,
    "modulate_backward": 8,
}


# What a block may have on every GPU from 8.0 on; 8.6, 8.9 and 12.0 have least. A kernel that asks
# for more is not launched.
SHARED_BYTES = 99 * 1024


@pytest.mark.parametrize(
    ("which", "capability"),
    [("each kernel", 90), *(pytest.param("all", gpu, marks=SLOW) for gpu in (80, 90, 100))],
)
@pytest.mark.parametrize("version", ["installed", "oldest"])
def test_compiles_without_spills(version: str, which: str, capability: int) -> None:
    """The kernels of every operator, as they are launched, for these GPUs.

    For each change every kernel in each way that it can be launched, in float32 and one 16-bit
    dtype, with the oldest Triton in one of the three; ``all`` adds the other dtypes and what the
    networks launch. Both with the Triton that is installed, in a fresh environment the newest, and
    with the oldest that is supported.
    """
    if version == "oldest" and which == "each kernel":
        which = "once"  # what it does not understand it does not in any dtype
    script = ("tests/ops/compile_triton.py", str(capability), which)
    if version == "oldest":
        found, *lines = python(*script, PYTHONPATH=str(oldest.folder() / "triton")).splitlines()
        assert f"{found}.".startswith(f"{oldest.version('triton')}.")
    else:
        found, *lines = python(*script).splitlines()
        assert found == importlib.metadata.version("triton")
    kernels = [json.loads(line) for line in lines]
    assert {k["operator"] for k in kernels} >= set(OPERATORS)
    spilling = [k for k in kernels if k["STACK"] > SPILLED_BYTES.get(k["kernel"], 0) or k["LOCAL"]]
    assert not spilling
    assert not [k for k in kernels if k["SHARED"] > SHARED_BYTES]


@pytest.mark.parametrize(
    ("asked", "capability", "runs"),
    [("none", 90, "tf32x3"), ("none", 75, "ieee"), ("ieee", 90, "ieee"), ("tf32", 90, "tf32")],
)
def test_float32_products_are_as_pytorch_is_told(
    monkeypatch: pytest.MonkeyPatch, asked: str, capability: int, runs: str
) -> None:
    from moce_kernels.triton_kernels import _common

    monkeypatch.setattr(_common, "compute_capability", lambda: capability)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = asked
    try:
        assert _common.float32_precision() == runs
        assert _common.float32_precision(sensitive=True) == ("tf32" if asked == "tf32" else "ieee")
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


SUMS = """
import torch
from moce_kernels.triton_kernels import channel_attention as ours
from moce_kernels.triton_kernels._sums import add_up

torch.manual_seed(0)
for groups, parts, size in (1, 300, 77), (3, 7, 33), (2, 64, 5):
    sums = torch.randn(groups, parts, size)
    out, other = add_up(sums, (groups, 3), (groups, size - 3))
    found = torch.cat([out, other], 1)
    torch.testing.assert_close(found, sums.double().sum(1).float(), rtol=1e-5, atol=1e-5)
for heads, c, outer, parts in (1, 32, 40, 137), (3, 5, 7, 70), (2, 48, 33, 9), (1, 130, 140, 20):
    C = heads * c
    sums, weight = torch.randn(2, parts, C * (c + 2)), torch.randn(outer, C)
    sums[..., C * c :] = sums[..., C * c :].abs() * c  # of squares
    temperature = torch.rand(heads) + 0.5
    gram, squares, matrix = ours._folded(sums, weight, temperature, torch.float32)
    total = sums.double().sum(1)
    lengths = total[:, C * c :].view(2, 2, heads, c).sqrt()
    cosines = total[:, : C * c].view(2, heads, c, c)
    torch.testing.assert_close(gram, cosines.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(squares, total[:, C * c :].view(2, 2, C).float())
    cosines = cosines / (lengths[:, 0, :, :, None] * lengths[:, 1, :, None, :])
    A = (cosines * temperature.double()[:, None, None]).softmax(-1)
    W = weight.double().view(outer, heads, c).transpose(0, 1)
    exact = (W @ A).permute(0, 2, 1, 3).reshape(2, outer, C)
    torch.testing.assert_close(matrix, exact.float(), rtol=1e-4, atol=1e-4)
"""


def test_sums_of_many_parts() -> None:
    """More than a program takes at a time; interpreted programs are too large to leave as many."""
    python("-c", SUMS, TRITON_INTERPRET="1")


PARTS = """
import importlib
import torch
from moce_kernels import registry
from moce_kernels.triton_kernels import _parts
from tests.ops.samples import SPECS

def noting(name, part):
    def call(*arguments):
        taken.add(name)
        return part(*arguments)
    return call

parts = _parts.Parts(*map(noting, _parts.Parts._fields, _parts.TRITON))
for spec in SPECS:
    if spec.name in registry.composed():
        taken = set()
        forward = importlib.import_module(f"moce_kernels.triton_kernels.{spec.name}").forward
        raw = (sample := next(spec.tiny())).raw(**sample.tensors)
        theirs, ours = forward(*raw), forward(*raw, parts=parts)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        print(spec.name, *sorted(taken))
"""


def test_composed_operators_take_the_parts_they_are_given() -> None:
    """As the backend ``cuda`` gives them the library's."""
    lines = python("-c", PARTS, TRITON_INTERPRET="1").splitlines()
    assert sorted(lines) == [
        "gated_feedforward gated_depthwise_conv",
        "grouped_experts grouped_depthwise_conv window_conv",
        "projected_depthwise_conv depthwise_conv",
        "transposed_attention depthwise_conv",
    ]
