"""Measuring a method on benchmarks, and writing the results."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

from torch import Tensor

from moceir.errors import ConfigError
from moceir.evaluation import tables
from moceir.evaluation.methods import Method, find_method, network
from moceir.evaluation.metrics import psnr, ssim
from moceir.evaluation.perceptual import (
    NO_REFERENCE,
    Lpips,
    NoReference,
    find_lpips,
    find_no_reference,
)
from moceir.evaluation.protocol import PROTOCOLS, Benchmark, Protocol
from moceir.evaluation.testsets import coverage
from moceir.files import check_free, make_folder, naming, whole_file
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.pictures.images import save_image
from moceir.pictures.pixels import to_image


@dataclass(frozen=True)
class Measurement:
    """One restored image.

    ``psnr_input`` and ``ssim_input`` are those of the degraded image. ``seconds``: network,
    transfers and tiles, without reading the files. ``experts``: of each decoder block, 1 the
    cheapest; none of a classical method. ``no_reference``: for each measure of ``NO_REFERENCE``
    that could be taken, its value for the degraded and for the restored image.
    """

    benchmark: str
    picture: str
    width: int
    height: int
    psnr_input: float
    ssim_input: float
    psnr: float
    ssim: float
    lpips: float | None
    seconds: float
    tile: int
    experts: tuple[int, ...]
    no_reference: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    rows: list[Measurement]
    """For each image, benchmark by benchmark."""
    about: dict[str, Any]
    """What produced it: model, protocol, seed, tile, device, versions, network."""

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Of each benchmark, in the order in which they were measured: the number of ``pictures``,
        and of all in its published test set (``pictures_of_set``, None if there is none);
        ``incomplete``: why the means are not comparable with published ones, "" if they are;
        ``unchecked``: what of that could not be checked; means of ``psnr`` (dB), ``ssim``,
        ``lpips``, ``niqe``, ``brisque`` and ``musiq``, and with ``_input`` those of the degraded
        images, None if not measured; ``median_seconds``; ``megapixels_per_second``."""
        names = dict.fromkeys(row.benchmark for row in self.rows)
        return {n: _summary([row for row in self.rows if row.benchmark == n]) for n in names}


def evaluate(
    model: Method | Restorer | MoCEIR | str | Path | None,
    benchmarks: Sequence[Benchmark],
    protocol: str = "published",
    *,
    seed: int = 0,
    tile: int | None = 0,
    pictures: Path | None = None,
    report: Callable[[Measurement, Tensor, Tensor], None] = lambda row, degraded, restored: None,
) -> Evaluation:
    """Measure a network, or a classical method, on benchmarks.

    >>> found = evaluate("runs/aio5/model.safetensors", benchmarks(["rain100l"], "/data"))
    >>> found.summaries()["rain100l"]["psnr"]
    >>> write_results(found, Path("results/aio5"))

    LPIPS, NIQE, BRISQUE and MUSIQ are measured if their weights are installed
    (``moceir.evaluation.perceptual``); if not, ``about`` says why.

    Args:
        model: what ``Restorer`` takes; a classical method, such as ``peer:bm3d``; a ``Restorer``
            or a ``Method``. None: the bundled specialists.
        benchmarks: from ``moceir.evaluation.protocol.benchmarks``.
        protocol: a name of ``PROTOCOLS``: ``published``, or ``promptir``.
        seed: of the noise of the denoising sets.
        tile: as ``Restorer`` takes it; 0: whole images.
        pictures: folder for the restored images, as PNG; None: they are not written.
        report: called for each image with what was measured and the degraded and the restored
            image, (3, H, W) in [0, 1].

    Raises:
        ConfigError: an unknown protocol or method; no benchmarks.
        PictureError: an image that cannot be used, or too little memory.
        WeightsError: weights that cannot be used.
        OSError: a restored image cannot be written.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"unknown protocol {protocol!r}: choose {', '.join(PROTOCOLS)}", "protocol"
        )
    if not benchmarks:
        raise ConfigError("there are no benchmarks to measure on: give at least one", "benchmarks")
    if isinstance(model, MoCEIR):
        model = Restorer(model)
    if isinstance(model, Restorer):
        model = network(model)
    method = model if isinstance(model, Method) else find_method(model)
    lpips, no_reference = find_lpips(method.device), find_no_reference(method.device)
    about = {
        "model": method.name,
        "protocol": protocol,
        "seed": seed,
        "tile": tile,
        **method.environment,
        "lpips": f"not measured, {lpips}" if isinstance(lpips, str) else "VGG",
        **{
            name: f"not measured, {found}" if isinstance(found, str) else "pyiqa"
            for name, found in no_reference.items()
        },
    }
    settings: dict[str, Any] = {
        "seed": seed,
        "tile": tile,
        "lpips": None if isinstance(lpips, str) else lpips,
        "no_reference": {n: f for n, f in no_reference.items() if not isinstance(f, str)},
    }
    rows = []
    for benchmark in benchmarks:
        for row, degraded, restored, _ in measure(
            method, benchmark, PROTOCOLS[protocol], **settings
        ):
            rows.append(row)
            report(row, degraded, restored)
            if pictures is not None:
                # "./rainy" gives "_rainy": no hidden folder, and none of a published benchmark.
                folder = pictures / benchmark.name.replace(os.sep, "_").removeprefix(".")
                save_image(to_image(restored), (folder / row.picture).with_suffix(".png"))
    return Evaluation(rows, about)


def measure(
    method: Method,
    benchmark: Benchmark,
    protocol: Protocol,
    *,
    seed: int = 0,
    tile: int | None = 0,
    lpips: Lpips | None = None,
    no_reference: Mapping[str, NoReference] = MappingProxyType({}),
) -> Iterator[tuple[Measurement, Tensor, Tensor, Tensor]]:
    """Restore and measure every picture of a benchmark, in order.

    Yields:
        The measurement, and the degraded, restored and clean images, (3, H, W) in [0, 1].

    Raises:
        PictureError: a picture that cannot be used, or too little memory.
    """
    for pair, name in zip(benchmark.pairs, benchmark.names, strict=True):
        degraded, clean = benchmark.load(pair, protocol, seed)
        start = time.perf_counter()
        restored, used_tile, experts = method.restore(degraded, benchmark.sigma, tile)
        seconds = time.perf_counter() - start
        window = protocol.ssim_window
        measurement = Measurement(
            benchmark.name,
            name,
            clean.shape[2],
            clean.shape[1],
            psnr(degraded, clean),
            ssim(degraded, clean, window),
            psnr(restored, clean),
            ssim(restored, clean, window),
            lpips(restored, clean) if lpips else None,
            seconds,
            used_tile,
            experts,
            {key: (value(degraded), value(restored)) for key, value in no_reference.items()},
        )
        yield measurement, degraded, restored, clean


def _summary(rows: Sequence[Measurement]) -> dict[str, Any]:
    pixels = sum(row.width * row.height for row in rows)
    known = coverage(rows[0].benchmark, [row.picture for row in rows])
    return {
        "pictures": len(rows),
        "pictures_of_set": known.of,
        "incomplete": known.reason,
        "unchecked": known.unchecked,
        "psnr_input": fmean(row.psnr_input for row in rows),
        "ssim_input": fmean(row.ssim_input for row in rows),
        "psnr": fmean(row.psnr for row in rows),
        "ssim": fmean(row.ssim for row in rows),
        "lpips": _mean(row.lpips for row in rows),
        **{
            name + end: _mean(row.no_reference.get(name, (None, None))[i] for row in rows)
            for name in NO_REFERENCE
            for i, end in enumerate(("_input", ""))
        },
        "median_seconds": median(row.seconds for row in rows),
        "megapixels_per_second": pixels / 1e6 / sum(row.seconds for row in rows),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Over the images that were measured; None: there is none."""
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else None


def as_csv(rows: Sequence[Measurement]) -> str:
    """One line per image; numbers with six decimals."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [name for name in Measurement.__dataclass_fields__ if name != "no_reference"]
    writer.writerow(heads + [name + end for name in NO_REFERENCE for end in ("_input", "")])
    for row in rows:
        values = asdict(row)
        taken = values.pop("no_reference")
        values["experts"] = " ".join(map(str, row.experts))
        both = (value for name in NO_REFERENCE for value in taken.get(name, (None, None)))
        writer.writerow(
            [
                f"{value:.6f}" if isinstance(value, float) else "" if value is None else value
                for value in (*values.values(), *both)
            ]
        )
    return file.getvalue()


def as_json(found: Evaluation) -> str:
    """The summaries and what produced them; an infinite PSNR is null."""
    content = {**found.about, "benchmarks": found.summaries()}
    return json.dumps(finite(content), indent=1, allow_nan=False)


def finite(value: Any) -> Any:
    """Infinite numbers, which JSON does not have, become None, in dictionaries and lists too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_markdown(evaluation: Evaluation) -> str:
    """The model, then ``tables``."""
    about = evaluation.about
    parts = [
        f"# {about['model']}",
        f"moceir {about['moceir']}, torch {about['torch']}.",
        *map(tables.as_markdown, tables.tables(evaluation)),
    ]
    return "\n\n".join(parts) + "\n"


def write_results(
    found: Evaluation, folder: Path | str, *, page: str | None = None, overwrite: bool = False
) -> None:
    """Write ``pictures.csv``, ``results.json`` and ``results.md``, all of them or none.

    They get their names only once all are written, so files of two evaluations are never mixed.

    Args:
        folder: created if necessary.
        page: content of ``report.html``; None: no report.
        overwrite: replace existing results.

    Raises:
        FileExistsError: the folder already contains results.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    check_free(folder / "results.json", overwrite)
    make_folder(folder)
    with ExitStack() as whole:
        for name, text in (
            ("pictures.csv", as_csv(found.rows)),
            ("results.json", as_json(found)),
            ("results.md", as_markdown(found)),
            ("report.html", page),
        ):
            if text is not None:
                temporary = whole.enter_context(whole_file(folder / name))
                with naming(folder / name):
                    temporary.write_text(text, encoding="utf-8")
