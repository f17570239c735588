"""The tables of an evaluation: what was measured, and the papers' rows if they are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from moceir.evaluation.paper import SETTINGS, Score, Setting
from moceir.evaluation.perceptual import NO_REFERENCE
from moceir.evaluation.protocol import PROTOCOLS

if TYPE_CHECKING:
    from moceir.evaluation.run import Evaluation

Summary = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table with everything that its numbers mean without the text around it.

    Args:
        title: what it shows.
        caption: what was measured on what.
        head: a cell for each column; the first one's are names, the others' numbers.
        body: as many cells in each row.
        notes: on single columns.
    """

    title: str
    caption: str
    head: list[str]
    body: list[list[str]]
    notes: list[str]


def tables(evaluation: Evaluation) -> list[Table]:
    """The means, then for each setting of the paper that has a measured benchmark the papers' rows
    and ours."""
    found = evaluation.summaries()
    settings = [s for s in SETTINGS.values() if any(column in found for column in s.columns)]
    return [
        means_table(found, evaluation.about),
        *(setting_table(setting, found, evaluation.about) for setting in settings),
    ]


def how(about: dict[str, Any]) -> str:
    """How an evaluation was done, for captions."""
    tile = about["tile"]
    part = f"in tiles of {tile}" if tile else "each as a whole"
    part += ", in tiles where memory is short" if tile is None else ""
    return (
        f"{PROTOCOLS[about['protocol']].description}; images restored {part}, in "
        f"{about['precision']} on {about['device']}; noise seed {about['seed']}"
    )


def means_table(found: dict[str, Summary], about: dict[str, Any]) -> Table:
    """For each benchmark, the means over its images."""
    measures = [
        ("PSNR input", "psnr_input", 2), ("PSNR", "psnr", 2),
        ("SSIM input", "ssim_input", 3), ("SSIM", "ssim", 3), ("LPIPS", "lpips", 3),
        *((f"{n.upper()}{end}", n + end.replace(" ", "_"), 2) for n in NO_REFERENCE
          for end in (" input", "")),
        ("seconds, median", "median_seconds", 3), ("megapixels/s", "megapixels_per_second", 3),
    ]  # fmt: skip
    shown = [m for m in measures if any(s[m[1]] is not None for s in found.values())]
    body = [
        [name, _number_of(s), *(_number(s[key], digits) for _, key, digits in shown)]
        for name, s in found.items()
    ]
    reasons: dict[str, list[str]] = {}
    for name in ("lpips", *NO_REFERENCE):
        if about[name].startswith("not measured"):
            reasons.setdefault(about[name], []).append(name.upper())
    left_out = [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
    unchecked = [f"{name}: {s['unchecked']}." for name, s in found.items() if s["unchecked"]]
    return Table(
        "Means over the images of each benchmark",
        f"PSNR in dB. The columns “input” are of the degraded images. Measured with {how(about)}.",
        ["benchmark", "images", *(title for title, _, _ in shown)],
        body,
        [*left_out, *unchecked],
    )


def setting_table(setting: Setting, found: dict[str, Summary], about: dict[str, Any]) -> Table:
    """The papers' rows (PSNR / SSIM) and ours, for the benchmarks that were measured. The papers'
    numbers stand only beside those of complete test sets."""
    measured = [column for column in setting.columns if column in found]
    complete = [column for column in measured if not found[column]["incomplete"]]
    everything = len(complete) == len(setting.columns)
    places = [list(setting.columns).index(column) for column in measured]
    body = []
    for method in setting.methods if complete else ():
        cells = [
            _score(method.scores[place]) if column in complete else "-"
            for place, column in zip(places, measured, strict=True)
        ]
        average = [_score(method.average)] if everything else []
        body.append([method.name, f"{method.parameters:g}M", *cells, *average])
    ours = [(s["psnr"], s["ssim"]) for s in (found[column] for column in measured)]
    cells = [
        f"{_score(score)} ({_number_of(found[column])} images)"
        for score, column in zip(ours, measured, strict=True)
    ]
    if everything:
        cells.append(_score((fmean(p for p, _ in ours), fmean(s for _, s in ours))))
    body.append([own_name(about), _parameters(about), *cells])
    notes = [
        f"{setting.columns[column]}: {found[column]['incomplete']}. Published numbers are means "
        "over the whole set, so they are left out."
        for column in measured
        if column not in complete
    ]
    missing = [title for column, title in setting.columns.items() if column not in found]
    if missing:
        notes.append(f"Not measured: {', '.join(missing)}.")
    published = "Published rows are as printed in the papers, for whole test sets. "
    return Table(
        f"{setting.title}: {'published and ' if complete else ''}ours",
        f"PSNR in dB / SSIM. {published if complete else ''}The last row was measured here with "
        f"{how(about)}.",
        ["method", "parameters", *(setting.columns[c] for c in measured)]
        + (["average"] if everything else []),
        body,
        notes,
    )


def own_name(about: dict[str, Any]) -> str:
    """What our row is called in a table of published ones."""
    return "this network" if "network" in about else about["model"]


def as_markdown(table: Table) -> str:
    """A heading, the caption, the table and its notes."""
    lines = [
        _row(table.head),
        "| --- |" + " ---: |" * (len(table.head) - 1),
        *map(_row, table.body),
    ]
    parts = [f"## {table.title}", table.caption, "\n".join(lines)]
    if table.notes:
        parts.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number_of(summary: Summary) -> str:
    """Of the images: ``68``, or ``4 of 68``."""
    number, of = summary["pictures"], summary["pictures_of_set"]
    return f"{number} of {of}" if of not in (None, number) else str(number)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _parameters(about: dict[str, Any]) -> str:
    """Rounded to three digits; a classical method has none."""
    return f"{about['parameters'] / 1e6:.3g}M" if "parameters" in about else "none"


def _score(score: Score) -> str:
    value, similarity = score
    return f"{value:.2f}" + ("" if similarity is None else f" / {similarity:.3f}")
