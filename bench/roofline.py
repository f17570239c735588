"""What a forward pass must compute and move at least, and what this machine can.

    python bench/roofline.py --preset moce_ir_s --height 224 --width 224

Operations and bytes of every operator that the network calls, as the operators declare them: an
operator reads its inputs and writes its output once, in float32. The rates are measured here:
a matrix product of 1024 x 1024 and a copy of 256 MB. Floors follow: no time is below the operations
at the matrix rate, nor below the bytes at the copy's rate where they come from memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from moce_kernels import registry, use_backends
from moceir import MoCEIR, preset
from moceir.config import MoCEIRConfig


class Count(TorchDispatchMode):
    """Sums of what is called inside: for each operator its operations and the bytes it moves.

    Every image takes the expert of this number, 0 the cheapest.
    """

    def __init__(self, expert: int) -> None:
        super().__init__()
        self.expert = expert
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("conv2d", "convolution"):
            x, weight = args[:2]
            name = f"conv2d {weight.shape[2]}x{weight.shape[3]}"
            self.add(name, x.nbytes + result.nbytes, 2 * result.numel() * weight[0].numel())
        elif func.namespace == "moce_kernels" and name in registry.OPERATORS:
            if name == "grouped_experts":
                *tensors, ranks, windows, eps = args
                one = [ranks[self.expert]], [windows[self.expert]]
                args = (*tensors, *one, eps)
            cost = registry.OPERATORS[name].cost(*args)
            self.add(name, cost.bytes, cost.operations)
        return result

    def add(self, name: str, moved: float, operations: float) -> None:
        self.bytes[name] += int(moved)
        self.operations[name] += int(operations)


def counted(config: MoCEIRConfig, height: int, width: int, expert: int) -> Count:
    """A forward pass, of which nothing is computed."""
    model = MoCEIR(config).eval()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.inference_mode(), use_backends("cpu"):
        x = torch.rand(1, 3, height, width)
        with Count(expert) as count:
            model(x)
    return count


def seconds(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="moce_ir_s")
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = preset(arguments.preset)
    size = arguments.height, arguments.width
    cheapest = counted(config, *size, 0)
    count = counted(config, *size, config.num_experts - 1)
    a, b = torch.randn(2, 1024, 1024)
    matrix = 1024**3 / seconds(lambda: a @ b)
    source, target = torch.randn(2, 2**26)
    copy = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    print(f"{arguments.preset}, {arguments.width} x {arguments.height}, the most expensive expert")
    print("| operator | G multiply-accumulates | MB | floor of these ms | of bytes ms |")
    print("| --- | ---: | ---: | ---: | ---: |")

    def row(name: str, operations: float, moved: float) -> None:
        macs = operations / 2
        print(
            f"| {name} | {macs / 1e9:.2f} | {moved / 1e6:.0f} | {1e3 * macs / matrix:.0f} | "
            f"{1e3 * moved / copy:.0f} |"
        )

    for name in sorted(count.operations, key=lambda n: -count.operations[n]):
        row(name, count.operations[name], count.bytes[name])
    row("all", count.operations.total(), count.bytes.total())
    row("all, the cheapest expert", cheapest.operations.total(), cheapest.bytes.total())
    print(f"\nmatrix rate {2 * matrix / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s (both ways)")


if __name__ == "__main__":
    main()
