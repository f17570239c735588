"""Matrix products of bfloat16 by the processor's own instructions.

They run as they are where this processor has them, and everywhere in a build that writes the
instructions out in C++, those of AMX included.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import moce_kernels as ops
from tests.ops import cpu_library
from tests.ops.samples import (
    channel_attention,
    gated_feedforward,
    grouped_experts,
    pointwise_conv,
    projected_depthwise_conv,
    transposed_attention,
)
from tests.ops.spec import Sample, skip_unless_it_runs
from tests.ops.test_all_ops import error, run

ROOT = Path(__file__).parents[2]
# Those that multiply in pairs.
OPERATORS = (
    "channel_attention",
    "gated_feedforward",
    "grouped_experts",
    "pointwise_conv",
    "projected_depthwise_conv",
    "transposed_attention",
)


def samples() -> Iterator[Sample]:
    """Beyond one tile, one buffer, one panel and one part of the inner dimension, and not a whole
    number of any."""
    torch.manual_seed(0)
    last = "channels_last"
    yield pointwise_conv.sample((1, 2100, 3, 7), last, 20, "bias", "residual")
    yield pointwise_conv.sample((1, 33, 3, 47), "contiguous", 100, "norm", "bias")
    yield pointwise_conv.sample((2, 15, 4, 20), last, 150, "norm", "bias", "residual")
    yield gated_feedforward.sample((1, 48, 5, 100), last, 85, "norm", "bias")
    yield gated_feedforward.sample((1, 130, 3, 40), "sliced_last", 70, "norm", "bias")
    yield projected_depthwise_conv.sample((1, 80, 8, 97), last, 150, 3, "norm", "bias")
    # Heads of an odd number of channels: a pair belongs to two of them.
    yield transposed_attention.sample((1, 66, 6, 50), last, 2, 66, 66, "norm", "bias", "residual")
    yield transposed_attention.sample((2, 51, 5, 33), last, 3, 40, 70, "norm")
    yield channel_attention.sample((1, 70, 9, 60), last, 2, 90, "bias", "residual")
    yield channel_attention.sample((1, 1040, 4, 50), last, 1, 30)
    yield grouped_experts.sample((2, 50, 9, 40), last, (20, 35), (4, 8), [[0, 1], [1, 0]])
    yield grouped_experts.sample((1, 1033, 5, 33), last, (20,), (4,), [[0]])


@pytest.mark.parametrize("sample", list(samples()), ids=lambda s: s.name)
def test_no_worse_than_twice_plain_pytorch(sample: Sample) -> None:
    skip_unless_it_runs("cpu", "pointwise_conv")
    sample = sample.rounded(torch.bfloat16)
    exact = run(sample, "reference", torch.float64)
    plain = run(sample, "reference", torch.bfloat16)
    ours = run(sample, "cpu", torch.bfloat16)
    for name, value in exact.items():
        assert error(ours[name], value) <= 2 * error(plain[name], value) + 2e-4, name


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 31, 32, 48, 64])
def test_pixels_that_are_not_finite_stay_alone(channels: int) -> None:
    """Zeros that fill a tile up must not meet what is in the next pixel."""
    skip_unless_it_runs("cpu", "pointwise_conv")
    x = torch.randn(1, channels, 6, 40).contiguous(memory_format=torch.channels_last).bfloat16()
    weight = torch.randn(96, channels)
    expected = ops.pointwise_conv(x, weight, backend="cpu")
    x[0, :, 2, 7], x[0, :, 3, 0] = float("nan"), float("inf")
    found = ops.pointwise_conv(x, weight, backend="cpu")
    same = torch.ones(6, 40, dtype=torch.bool)
    same[2, 7] = same[3, 0] = False
    assert torch.equal(found[..., same], expected[..., same])
    assert not found[..., ~same].isfinite().any()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates instructions of x86-64")
def test_emulated(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    # The compiler's vectors that are wider than the processor's are slow without optimisation.
    flags = ["-O2", "-Wno-psabi", "-DMOCE_EMULATED", "-DMOCE_HAS_AMX"]
    sources = (*OPERATORS, "amx", "fft_attention")  # grouped_experts contains the last
    cpu_library.build(compiler, tmp_path, flags, ["-DMOCE_LANES=16"], sources)
    of_table = f"cpu and bfloat16 and ({' or '.join(OPERATORS)})"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.other_libraries"),
            *("tests/ops/test_all_ops.py", __file__),
            *(
                "-k",
                f"(twice_plain_pytorch and ({of_table} or {Path(__file__).stem})) or stay_alone",
            ),
        ],
        cwd=ROOT,
        env={**os.environ, "MOCE_TEST_LIBRARIES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert f"{len(OPERATORS) + len(list(samples())) + 8} passed" in done.stdout
