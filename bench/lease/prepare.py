"""The Triton kernels that a lease needs, compiled before it: on a machine without a GPU, too.

    python -m moce_kernels.precompile bench.lease.prepare:checks --arch 9.0
    python -m moce_kernels.precompile bench.lease.prepare:networks --arch 9.0
    python -m moce_kernels.precompile bench.lease.prepare:operators --arch 9.0
    moceir precompile --preset moce_ir_s --shape 1x3x720x1280 --arch 9.0 ...

Carry the folder of TRITON_CACHE_DIR along and put it where it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.lease.checks import NETWORKS, PHOTO, SIZE, SMALL
from bench.microbenchmark import images_and_side, of_dtype, timed_samples
from moce_kernels import registry
from moceir import preset
from moceir.training.precompile import network_work
from tests.ops.samples import SPECS
from tests.ops.spec import DTYPES
from tests.ops.test_all_ops import run

Work = Callable[[], None]
CPU = torch.device("cpu")  # where tensors are that are none
GPU = images_and_side(torch.device("cuda"))


def checks(
    names: str = ",".join(registry.names("triton")), dtypes: str = "float32,bfloat16,float16"
) -> Work:
    """The samples of some operators, forward and backward."""
    samples = [s for spec in SPECS if spec.name in names.split(",") for s in spec.samples()]
    wanted = [dtype for dtype in DTYPES if str(dtype)[6:] in dtypes.split(",")]

    def work() -> None:
        for sample in samples:
            for dtype in wanted:
                run(sample, "triton", dtype)

    return work


def networks() -> Work:
    """The networks that are checked: some hundred kernels each, which one process would compile one
    after the other."""
    works = [network_work(SMALL, (4, 3, 128, 128), torch.float32, False)]
    for dtype in (torch.float32, torch.bfloat16):
        works.append(network_work(SMALL, (8, 3, 128, 128), dtype, True))
        for config in map(preset, NETWORKS):
            works.append(network_work(config, (config.num_experts, 3, *SIZE), dtype, True))
        # The bundled ones, as Restorer runs them.
        works.append(network_work(preset("compact"), (1, 3, *PHOTO), dtype, False))

    def work() -> None:
        for network in works:
            network()

    return work


def operators() -> Work:
    """The operators that are measured alone."""

    def work() -> None:
        for dtype in (torch.float32, torch.bfloat16):
            for spec in SPECS:
                for sample in timed_samples(spec, CPU, *GPU):
                    leaves = {n: t.requires_grad_() for n, t in of_dtype(sample, dtype).items()}
                    out = sample.call("triton", **leaves)
                    torch.autograd.grad(out, list(leaves.values()), torch.empty_like(out))

    return work
