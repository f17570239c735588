"""An evaluation as one HTML page: tables, and images with a before/after slider."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from string import Template
from typing import Any

from torch import Tensor

from moceir import __version__
from moceir.evaluation.paper import SETTINGS
from moceir.evaluation.run import Evaluation, Measurement, own_name, setting_table
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
    found, about = evaluation.summaries(), evaluation.about
    head = ["benchmark", "images", "PSNR input", "PSNR", "SSIM input", "SSIM", "seconds"]
    body = [
        [
            name,
            str(s["pictures"]),
            *(f"{s[key]:.2f}" for key in ("psnr_input", "psnr")),
            *(f"{s[key]:.3f}" for key in ("ssim_input", "ssim", "median_seconds")),
        ]
        for name, s in found.items()
    ]
    tables = [_panel("Means over the images of each benchmark", _table(head, body))]
    ours = {name: (float(s["psnr"] or 0), float(s["ssim"] or 0)) for name, s in found.items()}
    for setting in SETTINGS.values():
        if any(column in ours for column in setting.columns):
            head, _, *body = [
                [cell.strip(" *") for cell in line.strip("|").split("|")]
                for line in setting_table(setting, ours, own_name(about)).splitlines()
            ]
            tables.append(_panel(f"{setting.title}: published and ours", _table(head, body)))
    values = {
        "version": __version__,
        "style": pages.read("page.css"),
        "script": pages.read("slider.js"),
        "title": html.escape(f"Evaluation of {about['model']}"),
        "about": html.escape(
            f"Protocol {about['protocol']}, noise seed {about['seed']}; {about['device']}, "
            f"{about['precision']}; moceir {about['moceir']}, torch {about['torch']}. For each "
            "benchmark, the images with the largest and the smallest gain, shown as JPEG of "
            "quality 95 but measured without it."
        ),
        "tables": "\n".join(tables),
        "examples": "\n".join(_figure(*example) for example in examples),
    }
    return Template(pages.read("report.html")).substitute(values)


def _panel(title: str, content: str) -> str:
    return f'<section class="panel"><h2>{html.escape(title)}</h2>{content}</section>'


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return (
        f"<table><thead>{row(head, 'th')}</thead>"
        f"<tbody>{''.join(row(cells, 'td') for cells in body)}</tbody></table>"
    )


def _figure(measurement: Measurement, before: str, after: str) -> str:
    name = html.escape(measurement.picture)
    taken = " ".join(map(str, measurement.experts))
    experts = f", experts {taken}" if taken else ""
    return (
        '<figure class="panel"><div class="frame"><div class="slider">'
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
