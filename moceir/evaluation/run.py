"""Measuring a method on benchmarks, and writing the results."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean, median
from typing import Any

from torch import Tensor

from moceir.errors import ConfigError
from moceir.evaluation.lpips import Lpips, find_lpips
from moceir.evaluation.methods import Method, find_method, network
from moceir.evaluation.metrics import psnr, ssim
from moceir.evaluation.paper import SETTINGS, Score, Setting
from moceir.evaluation.protocol import PROTOCOLS, Benchmark, Protocol
from moceir.files import check_free, naming, whole_file
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.pictures.images import save_image
from moceir.pictures.pixels import to_image


@dataclass(frozen=True)
class Measurement:
    """One restored image.

    ``psnr_input`` and ``ssim_input`` are those of the degraded image. ``seconds``: network,
    transfers and tiles, without reading the files. ``experts``: of each decoder block, 1 the
    cheapest; none of a classical method.
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


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    rows: list[Measurement]
    """For each image, benchmark by benchmark."""
    about: dict[str, Any]
    """What produced it: model, protocol, seed, device, versions, network."""

    def summaries(self) -> dict[str, dict[str, float | int | None]]:
        """Of each benchmark, in the order in which they were measured: the number of ``pictures``;
        means of ``psnr`` (dB), ``ssim`` and ``lpips``, and of ``psnr_input`` and ``ssim_input``,
        those of the degraded images; ``median_seconds``; ``megapixels_per_second``."""
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

    LPIPS is measured if its weights are installed (``find_lpips``); if not, ``about`` says why.

    Args:
        model: what ``Restorer`` takes; a classical method, such as ``peer:bm3d``; a ``Restorer``
            or a ``Method``. None: the bundled weights.
        benchmarks: from ``moceir.evaluation.protocol.benchmarks``.
        protocol: a name of ``PROTOCOLS``: ``published``, or ``promptir``.
        seed: of the noise of the denoising sets.
        tile: as ``Restorer`` takes it; 0: whole images.
        pictures: folder for the restored images, as PNG; None: they are not written.
        report: called for each image with what was measured and the degraded and the restored
            image, (3, H, W) in [0, 1].

    Raises:
        ConfigError: an unknown protocol or method.
        PictureError: an image that cannot be used, or too little memory.
        WeightsError: weights that cannot be used.
        OSError: a restored image cannot be written.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"unknown protocol {protocol!r}: choose {', '.join(PROTOCOLS)}", "protocol"
        )
    if isinstance(model, MoCEIR):
        model = Restorer(model)
    if isinstance(model, Restorer):
        model = network(model)
    method = model if isinstance(model, Method) else find_method(model)
    lpips = find_lpips(method.device)
    about = {
        "model": method.name,
        "protocol": protocol,
        "seed": seed,
        **method.environment,
        "lpips": f"not measured, {lpips}" if isinstance(lpips, str) else "VGG",
    }
    metric = None if isinstance(lpips, str) else lpips
    rows = []
    for benchmark in benchmarks:
        for row, degraded, restored, _ in measure(
            method, benchmark, PROTOCOLS[protocol], seed=seed, tile=tile, lpips=metric
        ):
            rows.append(row)
            report(row, degraded, restored)
            if pictures is not None:
                folder = pictures / benchmark.name.replace("/", "_")
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
) -> Iterator[tuple[Measurement, Tensor, Tensor, Tensor]]:
    """Restore and measure every picture of a benchmark, in order.

    Yields:
        The measurement, and the degraded, restored and clean images, (3, H, W) in [0, 1].

    Raises:
        PictureError: a picture that cannot be used, or too little memory.
    """
    for pair in benchmark.pairs:
        degraded, clean = benchmark.load(pair, protocol, seed)
        start = time.perf_counter()
        restored, used_tile, experts = method.restore(degraded, benchmark.sigma, tile)
        seconds = time.perf_counter() - start
        window = protocol.ssim_window
        measurement = Measurement(
            benchmark.name,
            (pair.degraded or pair.clean).name,
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
        )
        yield measurement, degraded, restored, clean


def _summary(rows: Sequence[Measurement]) -> dict[str, float | int | None]:
    measured = [row.lpips for row in rows if row.lpips is not None]
    pixels = sum(row.width * row.height for row in rows)
    return {
        "pictures": len(rows),
        "psnr_input": fmean(row.psnr_input for row in rows),
        "ssim_input": fmean(row.ssim_input for row in rows),
        "psnr": fmean(row.psnr for row in rows),
        "ssim": fmean(row.ssim for row in rows),
        "lpips": fmean(measured) if measured else None,
        "median_seconds": median(row.seconds for row in rows),
        "megapixels_per_second": pixels / 1e6 / sum(row.seconds for row in rows),
    }


def as_csv(rows: Sequence[Measurement]) -> str:
    """One line per image; numbers with six decimals."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Measurement.__dataclass_fields__)
    for row in rows:
        values = asdict(row)
        values["experts"] = " ".join(map(str, row.experts))
        writer.writerow(
            [
                f"{value:.6f}" if isinstance(value, float) else "" if value is None else value
                for value in values.values()
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
    """The summaries, then for each setting of the paper the published rows and ours."""
    found, about = evaluation.summaries(), evaluation.about
    parts = [
        f"# {about['model']}",
        f"Protocol `{about['protocol']}`, noise seed {about['seed']}; {about['device']}, "
        f"{about['precision']}, moceir {about['moceir']}, torch {about['torch']}. "
        f"LPIPS: {about['lpips']}.",
        _benchmark_table(found),
    ]
    ours = {name: (float(s["psnr"] or 0), float(s["ssim"] or 0)) for name, s in found.items()}
    for setting in SETTINGS.values():
        if any(column in ours for column in setting.columns):
            parts += [f"## {setting.title}", setting_table(setting, ours, own_name(about))]
    return "\n\n".join(parts) + "\n"


def _benchmark_table(found: dict[str, dict[str, float | int | None]]) -> str:
    lines = [
        "| benchmark | images | PSNR input | PSNR | SSIM input | SSIM | LPIPS "
        "| seconds, median | megapixels/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, s in found.items():
        lpips = "-" if s["lpips"] is None else f"{s['lpips']:.3f}"
        lines.append(
            f"| {name} | {s['pictures']} | {s['psnr_input']:.2f} | {s['psnr']:.2f} | "
            f"{s['ssim_input']:.3f} | {s['ssim']:.3f} | {lpips} | {s['median_seconds']:.3f} | "
            f"{s['megapixels_per_second']:.3f} |"
        )
    return "\n".join(lines)


def own_name(about: dict[str, Any]) -> str:
    """What our row is called in a table of published ones."""
    return "this network" if "network" in about else about["model"]


def setting_table(setting: Setting, ours: dict[str, tuple[float, float]], name: str) -> str:
    """A setting's published rows (PSNR / SSIM) and ours; our average only if all was measured."""
    lines = [
        "| method | parameters | " + " | ".join(setting.columns.values()) + " | average |",
        "| --- | ---: |" + " --- |" * (len(setting.columns) + 1),
    ]
    for method in setting.methods:
        size = "-" if method.parameters is None else f"{method.parameters:g}M"
        scores = " | ".join(map(_score, (*method.scores, method.average)))
        lines.append(f"| {method.name} | {size} | {scores} |")
    measured = [ours.get(column) for column in setting.columns]
    complete = [score for score in measured if score is not None]
    average = (
        (fmean(p for p, _ in complete), fmean(s for _, s in complete))
        if len(complete) == len(measured)
        else None
    )
    lines.append(f"| **{name}** | | " + " | ".join(map(_score, (*measured, average))) + " |")
    return "\n".join(lines)


def _score(score: Score | None) -> str:
    if score is None:
        return "not measured"
    value, similarity = score
    return f"{value:.2f}" + ("" if similarity is None else f" / {similarity:.3f}")


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
    folder.mkdir(parents=True, exist_ok=True)
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
