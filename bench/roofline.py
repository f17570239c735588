"""What a forward pass must compute and move at least, and what this machine can.

    python bench/roofline.py --preset moce_ir_s --height 224 --width 224

Multiply-accumulates and bytes of every operator of the network, counted from the configuration: an
operator reads its inputs and writes its output once, in float32. The rates are measured here:
a matrix product of 1024 x 1024 and a copy of 256 MB. Floors follow: no time is below the products
at the matrix rate, nor below the bytes at the copy's rate where they come from memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch

from moceir import preset
from moceir.config import MoCEIRConfig


class Count:
    """Sums for each operator: multiply-accumulates, and floats read and written."""

    def __init__(self) -> None:
        self.macs: Counter[str] = Counter()
        self.floats: Counter[str] = Counter()

    def add(self, name: str, pixels: int, macs: float, floats: float) -> None:
        self.macs[name] += int(pixels * macs)
        self.floats[name] += int(pixels * floats)


def transposed_attention(count: Count, P: int, C: int, heads: int) -> None:
    """MDTA: x is read and v written, then v and the residual are read and the sum written."""
    count.add("transposed_attention", P, 4 * C * C + 27 * C + C * C / heads, 5 * C)


def feedforward(count: Count, P: int, C: int, expansion: float) -> None:
    hidden = int(C * expansion)
    count.add("gated_feedforward", P, 3 * hidden * C + 18 * hidden, 2 * C)


def encoder_block(count: Count, P: int, C: int, heads: int, expansion: float) -> None:
    transposed_attention(count, P, C, heads)
    feedforward(count, P, C, expansion)


def decoder_block(count: Count, P: int, C: int, heads: int, expansion: float, rank: int) -> None:
    transposed_attention(count, P, C, heads)
    count.add("pointwise_conv", P, C * C, 2 * C)  # to the experts
    r = rank
    count.add("grouped_experts", P, 3 * r * C + 4 * r * r + 107 * r, 4 * C + 6 * r)
    # Queries with the experts' project_out folded in; keys and values.
    count.add("projected_depthwise_conv", P, 3 * C * C + 9 * C + 98 * C, 2 * C + 3 * C)
    count.add("channel_attention", P, C * C / heads + C * C, 5 * C)
    feedforward(count, P, C, expansion)


def network(config: MoCEIRConfig, height: int, width: int, expert: int) -> Count:
    """With the expert of this number, 0 the cheapest, in every decoder block."""
    count = Count()
    levels = range(len(config.dims) - 1)
    pixels = [height * width // 4**level for level in range(len(config.dims))]
    ffn = config.ffn_expansion
    C, P = config.dims[0], pixels[0]
    count.add("conv2d 3x3", P, 2 * 27 * C, 2 * (3 + C))
    for level in range(len(config.dims)):
        for _ in range(config.num_blocks[level]):
            encoder_block(count, pixels[level], config.dims[level], config.heads[level], ffn)
    for level in levels:
        C, P = config.dims[level], pixels[level]
        count.add("conv2d 3x3", P, 9 * C * C / 2, C + C / 2)  # down
        count.add("conv2d 3x3", P // 4, 9 * 2 * C * 4 * C, 2 * C + 4 * C)  # up
        count.add("pointwise_conv", P, 2 * C * C, 5 * C)  # fusion with the skip connection
        for _ in range(config.num_dec_blocks[level]):
            rank = config.ranks(level)[expert]
            decoder_block(count, P, C, config.heads[level], ffn, rank)
    for _ in range(config.num_refinement_blocks):
        encoder_block(count, pixels[0], config.dims[0], config.heads[0], ffn)
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
    cheapest = network(config, arguments.height, arguments.width, 0)
    count = network(config, arguments.height, arguments.width, config.num_experts - 1)
    a, b = torch.randn(2, 1024, 1024)
    matrix = 1024**3 / seconds(lambda: a @ b)
    source, target = torch.randn(2, 2**26)
    copy = 2 * source.numel() * 4 / seconds(lambda: target.copy_(source))
    print(f"{arguments.preset}, {arguments.width} x {arguments.height}, the most expensive expert")
    print("| operator | G multiply-accumulates | MB | floor of products ms | of bytes ms |")
    print("| --- | ---: | ---: | ---: | ---: |")

    def row(name: str, macs: float, floats: float) -> None:
        print(
            f"| {name} | {macs / 1e9:.2f} | {4 * floats / 1e6:.0f} | {1e3 * macs / matrix:.0f} | "
            f"{1e3 * 4 * floats / copy:.0f} |"
        )

    for name in sorted(count.macs, key=lambda n: -count.macs[n]):
        row(name, count.macs[name], count.floats[name])
    row("all", count.macs.total(), count.floats.total())
    row("all, the cheapest expert", cheapest.macs.total(), cheapest.floats.total())
    print(f"\nmatrix rate {2 * matrix / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s (both ways)")


if __name__ == "__main__":
    main()
