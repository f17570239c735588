"""The largest errors of the CPU operators for 64-bit Arm against float64, as a table of Markdown:
``MOCE_TEST_PROGRAM=<program> python -m tests.aarch64.errors``.

Of values and gradients over all samples of the table of tests, relative, in the L2 norm; beside
them those of plain PyTorch on this machine in the same precision.
"""

from __future__ import annotations

import torch

import tests.aarch64.plugin  # noqa: F401
from tests.ops.samples import SPECS
from tests.ops.spec import DTYPES, OpSpec
from tests.ops.test_all_ops import error, run


def largest(spec: OpSpec) -> list[tuple[float, float]]:
    """The kernel's and plain PyTorch's, for each dtype."""
    found = []
    for dtype in DTYPES:
        ours = plain = 0.0
        for wide in spec.samples():
            sample = wide.rounded(dtype)
            exact = run(sample, "reference", torch.float64)
            by_kernel, by_torch = (run(sample, b, dtype) for b in ("cpu", "reference"))
            # The gradient through a norm over one channel is zero, but for float64's rounding.
            smallest = 1e-9 * max(float(x.norm()) for x in exact.values())
            for name, x in exact.items():
                if x.norm() > smallest:
                    ours = max(ours, error(by_kernel[name], x))
                    plain = max(plain, error(by_torch[name], x))
        found.append((ours, plain))
    return found


if __name__ == "__main__":
    print("| operator | float32 | bfloat16 | float16 |")
    print("| --- | ---: | ---: | ---: |")
    for spec in SPECS:
        if "cpu" in spec.kernels:
            cells = (f"{ours:.1e} ({plain:.1e})" for ours, plain in largest(spec))
            print(f"| {spec.name} | {' | '.join(cells)} |", flush=True)
