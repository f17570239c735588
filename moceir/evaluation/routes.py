"""Which experts pictures take, by what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moceir.data.degradations import Degradation, degrade, parse
from moceir.data.kinds import KINDS
from moceir.errors import ConfigError, PictureError, TooLittleMemory, check_several
from moceir.evaluation.protocol import PROTOCOLS, Benchmark
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import to_tensor
from moceir.weights.bundled import BUNDLED


def routes(
    model: MoCEIR | Restorer | str | Path | None = None,
    pictures: Sequence[Path | str] = (),
    *,
    kinds: Sequence[str] = (),
    benchmarks: Sequence[Benchmark] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Restore images whole and count which expert each decoder block took.

    >>> counts = routes("compact", ["photos"], kinds=["noise", "haze"])
    >>> counts["haze"][0]  # images that took expert 1, 2, 3, 4 at the first block

    Give ``pictures`` or ``benchmarks``. ``moceir.figures.routes.routes_figure`` draws the result.

    Args:
        model: a ``Restorer`` with one network, or what it takes; None: the bundled ``compact``.
        pictures: clean images, or folders of them; each is degraded in every way in ``kinds``.
        kinds: strings for ``moceir.data.degradations.parse``, such as ``noise:sigma=50``; empty:
            every kind with its default parameters.
        benchmarks: from ``moceir.evaluation.protocol.benchmarks``, under the published protocol.
        seed: of the degradations, and of the noise of denoising sets.

    Returns:
        For each kind or benchmark, (D, n) int64: how many images took each of the n experts in each
        of the D decoder blocks, deepest first. With several experts per image, only the first
        choice counts.

    Raises:
        ConfigError: neither ``pictures`` nor ``benchmarks``, or both.
        ValueError: an unknown kind.
        PictureError: an image that cannot be used, or too little memory.
        WeightsError: weights that cannot be used.
    """
    check_several("pictures", pictures)
    check_several("kinds", kinds)
    if bool(pictures) == bool(benchmarks):
        raise ConfigError("nothing to route: give images, or benchmarks")
    degradations = {kind: parse(kind) for kind in kinds or KINDS}
    paths = [file for path in map(Path, pictures) for file in _files(path)]
    restorer = model if isinstance(model, Restorer) else Restorer(model or BUNDLED[0])
    if benchmarks:
        return {b.name: count_routes(restorer, _measured(b, seed)) for b in benchmarks}
    return {
        kind: count_routes(restorer, _degraded(paths, degradation, seed))
        for kind, degradation in degradations.items()
    }


def count_routes(restorer: Restorer, images: Iterable[Tensor]) -> Tensor:
    """(D, n) int64, as ``routes``, of images (3, H, W) in [0, 1].

    Raises:
        PictureError: too little memory for a whole image.
    """
    config = restorer.model.config
    counts = torch.zeros(sum(config.num_dec_blocks), config.num_experts, dtype=torch.int64)
    for image in images:
        for block, expert in enumerate(route_of(restorer, image)):
            counts[block, expert - 1] += 1
    return counts


def route_of(restorer: Restorer, image: Tensor) -> tuple[int, ...]:
    """The expert, 1 the cheapest, that each decoder block takes for an image (3, H, W) in [0, 1].

    Raises:
        PictureError: too little memory for the whole image.
    """
    if restorer.specialists is not None:
        raise ConfigError("a route is that of one network: name one, such as compact", "model")
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    try:
        _, run = restorer.restore_pixels(pixels, tile=0)
    except TooLittleMemory as error:
        raise PictureError(
            f"{error.need}: a route is that of a whole picture, so give a smaller one, or choose "
            "another device",
            "device",
        ) from error
    return run.experts


def _files(path: Path) -> list[Path]:
    return find_pictures(path) if path.is_dir() else [path]


def _measured(benchmark: Benchmark, seed: int) -> Iterator[Tensor]:
    for pair in benchmark.pairs:
        yield benchmark.load(pair, PROTOCOLS["published"], seed)[0]


def _degraded(paths: Sequence[Path], degradation: Degradation, seed: int) -> Iterator[Tensor]:
    for i, path in enumerate(paths):
        yield degrade(to_tensor(open_rgb(path))[None], degradation, seed, i)[0]
