"""What a layer of experts makes a GPU do, on a machine that need not have one.

``python tests/ops/count_launches.py`` runs Triton's routing_plan and grouped_experts, forward and
backward, on tensors without values (PyTorch's device "meta"): kernels are not launched but noted,
and so is every operator of PyTorch. It prints a line of JSON for each batch and top_k, and fails
where a value would be read back to the host or images copied to group them.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from moce_kernels import (
    ExpertWeights,
    backends,
    expert_weight_shapes,
    grouped_experts,
    routing_plan,
    triton_kernels,
)
from moce_kernels.absent_gpu import Target
from moce_kernels.ops import _inputs, _library

READS_BACK = {"_local_scalar_dense", "nonzero", "masked_select"}
COPIES_IMAGES = {"index", "index_select", "gather", "take"}


class Watch(TorchDispatchMode):
    """Runs Triton's implementations where meta tensors would only be given shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == _library.TRITON:
            operator = name.removesuffix("_backward")
            module = importlib.import_module(f"moce_kernels.triton_kernels.{operator}")
            with self:
                return (module.forward if name == operator else module.backward)(*args)
        if name in READS_BACK | COPIES_IMAGES:
            raise SystemExit(f"{func} was called")
        self.operators.append(str(func))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "meta":
            raise SystemExit(f"{func} left the GPU")
        return result


def run(batch: int, top_k: int, launches: list[str]) -> dict[str, Any]:
    ranks, windows = (8, 16, 32, 64), (4, 8, 16, 32)
    with torch.device("meta"):
        x, shared, grad = (
            torch.empty((batch, 64, 32, 32)).contiguous(memory_format=torch.channels_last)
            for _ in range(3)
        )
        logits = torch.empty(batch, len(ranks))
        weights = [torch.empty(shape) for shape in expert_weight_shapes(64, ranks).values()]
    leaves = [t.requires_grad_() for t in (x, shared, logits, *weights)]
    launches.clear()
    with Watch() as watch:
        plan = routing_plan(logits, top_k, backend="triton")
        out = grouped_experts(
            x, shared, plan, ExpertWeights(*weights), ranks, windows, backend="triton"
        )
        forward = len(launches)
        torch.autograd.grad(out, leaves, grad)
    return {
        "batch": batch,
        "top_k": top_k,
        "forward": launches[:forward],
        "backward": launches[forward:],
        "operators": watch.operators,
    }


def main() -> None:
    driver.set_active(Target(90))
    triton_kernels.load()
    launches: list[str] = []

    def note(self: JITFunction, *args: Any, **kwargs: Any) -> None:
        launches.append(self.__name__)

    JITFunction.run = note
    # What knows no meta tensors: Triton is refused for them, and they have no autocast.
    backends.choose = lambda *_: "triton"
    _inputs.autocast = lambda device, *tensors: tensors
    for top_k in (1, 2):
        for batch in (2, 7):
            print(json.dumps(run(batch, top_k, launches)))


if __name__ == "__main__":
    main()
