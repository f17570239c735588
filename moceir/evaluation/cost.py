"""What a network costs: parameters and multiply-accumulates, by route.

This counts convolutions, linear layers and the two matrix products of each channel attention, like
the field's "FLOPs" (which are multiply-accumulates: one multiplication and one addition). The
network is counted as the paper defines it; an implementation that merges two 1x1 convolutions into
one matrix computes less. Activations, softmax and gates are not counted. LayerNorms and the
experts' Fourier transforms, which some counters include, are counted separately, as ``extras``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError, PictureError, TooLittleMemory, check_several
from moceir.evaluation.routes import route_of
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_tensor
from moceir.weights.bundled import BUNDLED

NORM_OPERATIONS = 5
"""Of a LayerNorm with weight and bias, for each value; the number that fvcore has."""


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one image.

    Args:
        fixed: of everything that runs whatever the route.
        experts: of each decoder block, in the order in which they run, those of each expert.
        top_k: experts of an image at a block.
    """

    fixed: int
    experts: tuple[tuple[int, ...], ...]
    top_k: int = 1

    @property
    def cheapest(self) -> int:
        """Of the route through the cheapest experts."""
        return self.fixed + sum(sum(sorted(block)[: self.top_k]) for block in self.experts)

    @property
    def most_expensive(self) -> int:
        """Of the route through the most expensive experts."""
        return self.fixed + sum(sum(sorted(block)[-self.top_k :]) for block in self.experts)

    def route(self, experts: Sequence[Sequence[int]]) -> int:
        """Of a route: for each decoder block the experts taken, 0 the cheapest."""
        taken = zip(self.experts, experts, strict=True)
        return self.fixed + sum(block[e] for block, chosen in taken for e in chosen)

    def of_counts(self, counts: Tensor) -> int:
        """Of many images: (D, n) how often each expert was chosen in each decoder block."""
        images = int(counts[0].sum()) // self.top_k
        taken = zip(self.experts, counts.tolist(), strict=True)
        return self.fixed * images + sum(
            each * count for block, row in taken for each, count in zip(block, row, strict=True)
        )


def cost(config: MoCEIRConfig, height: int, width: int) -> Cost:
    """The cost of an image of H x W, padded as the network pads it."""
    height, width = _padded(config, height, width)
    *levels, deepest = range(len(config.dims))

    def pixels(level: int) -> int:
        return (height >> level) * (width >> level)

    def feed_forward(c: int) -> int:
        hidden = int(c * config.ffn_expansion)
        return 2 * hidden * c + 9 * 2 * hidden + hidden * c

    def shared(c: int, heads: int) -> int:  # MDTA; c^2 / heads for each of its two products
        return 3 * c * c + 9 * 3 * c + 2 * c * c // heads + c * c

    def cross(c: int, heads: int) -> int:
        return c * c + 9 * c + 2 * c * c + 49 * 2 * c + 2 * c * c // heads + c * c

    def block(level: int) -> int:
        c, heads = config.dims[level], config.heads[level]
        return pixels(level) * (shared(c, heads) + feed_forward(c))

    def decoder_block(level: int) -> int:
        c, heads = config.dims[level], config.heads[level]
        body = 2 * c * c + shared(c, heads) + c * c + cross(c, heads) + feed_forward(c)
        body += c * c if config.expert_path else 0
        router = config.num_experts * (c + config.dims[-1])
        return pixels(level) * body + router

    def expert(level: int, r: int) -> int:
        c = config.dims[level]
        modulated = 2 * c * r + r * c
        attention = r * r + 9 * r + 2 * r * r + 49 * 2 * r + r * r
        return pixels(level) * (modulated + attention)

    dims = config.dims
    bottom = dims[-1]
    fixed = pixels(0) * 9 * 3 * dims[0] * 2  # stem and output
    for level in levels:
        c = dims[level]
        fixed += config.num_blocks[level] * block(level)
        fixed += pixels(level) * 9 * c * (c // 2)  # down
        fixed += pixels(level + 1) * 9 * (2 * c) * (4 * c)  # up
        fixed += pixels(level) * 2 * c * c  # fusion with the skip connection
        fixed += config.num_dec_blocks[level] * decoder_block(level)
    fixed += config.num_blocks[deepest] * block(deepest)
    fixed += pixels(deepest) * 9 * bottom + 2 * bottom * 2 * bottom  # frequency embedding
    fixed += config.num_refinement_blocks * block(0)
    return Cost(
        fixed,
        tuple(
            tuple(expert(level, r) for r in config.ranks(level)) for level in config.decoder_levels
        ),
        config.top_k,
    )


def extras(config: MoCEIRConfig, height: int, width: int) -> Cost:
    """LayerNorms and Fourier transforms of an image, which ``cost`` leaves out."""
    height, width = _padded(config, height, width)
    *levels, deepest = range(len(config.dims))

    def norm(level: int, channels: int) -> int:
        return NORM_OPERATIONS * (height >> level) * (width >> level) * channels

    def expert(level: int, r: int, window: int) -> int:
        windows = -(-(height >> level) // window) * -(-(width >> level) // window)
        n = window * window
        # Three real transforms of 2.5 n log2 n operations, half a multiply-accumulate each, and
        # n / 2 complex products of four.
        transforms = windows * r * int(3 * 1.25 * n * math.log2(n) + 4 * n / 2)
        return transforms + norm(level, r)

    blocks = [config.num_blocks[level] + config.num_dec_blocks[level] for level in levels] + [
        config.num_blocks[deepest]
    ]
    blocks[0] += config.num_refinement_blocks
    return Cost(
        sum(2 * n * norm(level, config.dims[level]) for level, n in enumerate(blocks)),
        tuple(
            tuple(
                expert(level, r, w)
                for r, w in zip(config.ranks(level), config.windows, strict=True)
            )
            for level in config.decoder_levels
        ),
        config.top_k,
    )


@dataclass(frozen=True)
class PictureCost:
    """The route that an image took, and what it costs."""

    picture: str
    width: int
    height: int
    experts: tuple[int, ...]
    """Of each decoder block, 1 the cheapest."""
    macs: int
    """Multiply-accumulates of that route."""
    cheapest: int
    most_expensive: int
    """Of these routes, at the image's size."""


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs for an image of one size."""

    parameters: int
    width: int
    height: int
    macs: Cost
    extras: Cost
    """LayerNorms and Fourier transforms, which ``macs`` leaves out."""
    device: str
    threads: int
    """Of the CPU."""
    backend: str
    seconds: float | None
    """Median of the runs; None: it was not timed."""
    pictures: list[PictureCost]


def measure_cost(
    model: MoCEIR | Restorer | str | Path | None = None,
    width: int = 224,
    height: int = 224,
    *,
    pictures: Sequence[Path | str] = (),
    runs: int = 3,
) -> NetworkCost:
    """Count what a network computes, time it, and find the routes that images take.

    >>> found = measure_cost("compact", 1280, 720)
    >>> found.macs.cheapest / 1e9, found.seconds

    Args:
        model: a ``Restorer`` with one network, or what it takes; None: the bundled ``compact``.
        width, height: of the image that is counted and timed, pixels.
        pictures: image files, each restored as a whole to find its route.
        runs: timed runs, of which the median is reported, after one to warm up; 0: no timing.

    Raises:
        ConfigError: a size below 1.
        WeightsError: weights that cannot be used.
        PictureError: an image that cannot be read, or too little memory.
    """
    check_several("pictures", pictures)
    if width < 1 or height < 1:
        raise ConfigError(f"size {width} x {height}: give at least 1 x 1", "size")
    restorer = model if isinstance(model, Restorer) else Restorer(model or BUNDLED[0])
    if restorer.specialists is not None:
        raise ConfigError("costs are those of one network: name one, such as compact", "model")
    config = restorer.model.config
    routes = [_of_picture(restorer, Path(path)) for path in pictures]
    timed = None
    if runs:
        try:
            timed = seconds(restorer, _noise(height, width), runs)
        except TooLittleMemory as error:
            raise PictureError(
                f"{error.need}: give a smaller size, or choose another device", "size"
            ) from error
    return NetworkCost(
        sum(p.numel() for p in restorer.model.parameters()),
        width,
        height,
        cost(config, height, width),
        extras(config, height, width),
        str(restorer.device),
        restorer.threads,
        restorer.backend,
        timed,
        routes,
    )


def _of_picture(restorer: Restorer, path: Path) -> PictureCost:
    image = to_tensor(open_rgb(path))
    experts = route_of(restorer, image)
    height, width = image.shape[1:]
    of_size = cost(restorer.model.config, height, width)
    macs = of_size.route([[expert - 1] for expert in experts])
    return PictureCost(
        str(path), width, height, experts, macs, of_size.cheapest, of_size.most_expensive
    )


def _noise(height: int, width: int) -> Tensor:
    try:
        return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:  # more than memory, or a number, can hold
        need = f"an image of {width} x {height} does not fit into memory"
        raise TooLittleMemory(need, "give a smaller size", "size") from error


def seconds(restorer: Restorer, image: Tensor, runs: int = 3) -> float:
    """Median time of the network on (3, H, W), transfers included, after one run to warm up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        restorer(image[None], tile=0)
        if restorer.device.type == "cuda":
            torch.cuda.synchronize(restorer.device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _padded(config: MoCEIRConfig, height: int, width: int) -> tuple[int, int]:
    return height + -height % config.cell, width + -width % config.cell
