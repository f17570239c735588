"""An evaluation as one HTML page: tables, and images with a before/after slider."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from io import BytesIO
from string import Template
from typing import Any

from torch import Tensor

from moceir import __version__
from moceir.evaluation.run import Evaluation, Measurement
from moceir.evaluation.tables import Table, how, tables
from moceir.pictures.pixels import to_image
from moceir.web import pages


@dataclass
class Examples:
    """For each benchmark, the images with the largest and smallest gain, collected as measured."""

    _kept: dict[str, list[tuple[Measurement, str, str]]] = field(default_factory=dict)

    def add(self, measurement: Measurement, degraded: Tensor, restored: Tensor) -> None:
        """Keep it if it is the best or the worst so far."""
        kept = self._kept.setdefault(measurement.benchmark, [])
        gains = [gain(other) for other, _, _ in kept]
        if len(kept) == 2 and min(gains) <= gain(measurement) <= max(gains):
            return
        kept.append((measurement, _data_uri(degraded), _data_uri(restored)))
        kept.sort(key=lambda example: -gain(example[0]))
        del kept[1:-1]

    def __iter__(self) -> Any:
        for kept in self._kept.values():
            yield from kept


def gain(measurement: Measurement) -> float:
    """How much PSNR the restoration added, dB."""
    return measurement.psnr - measurement.psnr_input


def page(evaluation: Evaluation, examples: Examples) -> str:
    """An HTML page that opens without a server and loads nothing."""
    about = evaluation.about
    values = {
        "version": __version__,
        "style": pages.read("page.css"),
        "script": pages.read("slider.js"),
        "title": html.escape(f"Evaluation of {about['model']}"),
        "about": html.escape(f"moceir {about['moceir']}, torch {about['torch']}."),
        "tables": "\n".join(map(_table, tables(evaluation))),
        "about_examples": html.escape(
            "For each benchmark, the images with the largest and the smallest gain, restored "
            f"with {how(about)}. They are shown as JPEG of quality 95 but were measured without it."
        ),
        "examples": "\n".join(_figure(*example) for example in examples),
    }
    return Template(pages.read("report.html")).substitute(values)


def _table(table: Table) -> str:
    def row(cells: list[str], opening: str, closing: str) -> str:
        return f"<tr>{''.join(opening + html.escape(cell) + closing for cell in cells)}</tr>"

    head = row(table.head, '<th scope="col">', "</th>")
    body = "".join(row(cells, "<td>", "</td>") for cells in table.body)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    title = html.escape(table.title)
    return (
        f'<section class="panel"><h2>{title}</h2>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
        f"<table><caption>{html.escape(table.caption)}</caption><thead>{head}</thead>"
        f'<tbody>{body}</tbody></table></div><ul class="notes">{notes}</ul></section>'
    )


def _figure(measurement: Measurement, before: str, after: str) -> str:
    name = html.escape(measurement.picture)
    taken = " ".join(map(str, measurement.experts))
    experts = f", experts {taken}" if taken else ""
    return (
        '<figure class="panel"><div class="frame" tabindex="0" role="group" '
        f'aria-label="{name}: + and - zoom, arrow keys move"><div class="slider">'
        f'<img class="after" alt="Restored: {name}" src="{after}">'
        f'<img class="before" alt="Degraded: {name}" src="{before}">'
        '<input type="range" min="0" max="100" aria-label="How much of the image shows before">'
        '<span class="line"></span></div></div><div class="tools"></div>'
        f"<figcaption><b>{html.escape(measurement.benchmark)}</b> {name}: "
        f"{measurement.psnr_input:.2f} to {measurement.psnr:.2f} dB "
        f"({gain(measurement):+.2f}), SSIM {measurement.ssim_input:.3f} to "
        f"{measurement.ssim:.3f}{experts}"
        "</figcaption></figure>"
    )


def _data_uri(image: Tensor) -> str:
    file = BytesIO()
    to_image(image).save(file, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
