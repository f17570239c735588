"""The Triton kernels that a lease needs, compiled before it: on a machine without a GPU, too.

    python -m moce_kernels.precompile bench.lease.prepare:checks --arch 9.0
    python -m moce_kernels.precompile bench.lease.prepare:operators --arch 9.0
    moceir precompile --preset moce_ir_s --shape 1x3x720x1280 --arch 9.0 ...

Carry the folder of TRITON_CACHE_DIR along and put it where it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.lease.checks import SMALL
from bench.lease.operators import cases, layer_of_experts
from moce_kernels.triton_kernels import OPERATORS
from moceir.training.precompile import network_work
from tests.ops.spec import DTYPES, SPECS
from tests.ops.test_all_ops import run

Work = Callable[[], None]
CPU = torch.device("cpu")  # where tensors are that are none


def checks(names: str = ",".join(OPERATORS), dtypes: str = "float32,bfloat16,float16") -> Work:
    """The samples of some operators, forward and backward, and the small network."""
    samples = [s for spec in SPECS if spec.name in names.split(",") for s in spec.samples()]
    networks = [
        network_work(SMALL, (4, 3, 128, 128), torch.float32, train) for train in (False, True)
    ]
    wanted = [dtype for dtype in DTYPES if str(dtype)[6:] in dtypes.split(",")]

    def work() -> None:
        for sample in samples:
            for dtype in wanted:
                run(sample, "triton", dtype)
        for network in networks:
            network()

    return work


def operators() -> Work:
    """The operators that are measured alone, and the layer of experts."""

    def work() -> None:
        for dtype in (torch.float32, torch.bfloat16):
            layer, layer_call, _ = layer_of_experts(CPU, dtype, True)
            single = ((leaves, call) for _, _, leaves, call, _ in cases(CPU, dtype, True))
            for leaves, call in ((layer, layer_call), *single):
                for leaf in leaves:
                    leaf.requires_grad_()
                out = call("triton", *leaves)
                torch.autograd.grad(out, leaves, torch.empty_like(out))

    return work
