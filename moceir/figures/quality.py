"""Quality against parameters and against compute (Fig. 4 of the paper)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError
from moceir.evaluation.cost import Cost, cost
from moceir.evaluation.methods import PREFIX
from moceir.evaluation.paper import SETTINGS, Setting
from moceir.figures.draw import EXPERTS, new

PAPER_GIGAMACS = {"MoCE-IR-S": 36.9, "MoCE-IR": 80.6}
"""At 224 x 224, as the paper has them; those of other methods are not in its text."""


@dataclass(frozen=True)
class Result:
    """What ``moceir evaluate`` wrote in ``results.json``."""

    name: str
    parameters: int | None
    """None: a classical method, which has none."""
    cost: Cost | None
    """At 224 x 224; None likewise."""
    psnr: dict[str, float]
    """Of each benchmark."""


def read_result(path: Path, name: str | None = None) -> Result:
    """A ``results.json``, under the name given or that of its folder.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if {"methods", "rows"} <= content.keys():
            raise ConfigError(
                f"{path}: a table of moceir.evaluation.synthetic, whose degradations no paper has "
                "measured: give a results.json of moceir evaluate, for a classical method one of "
                "moceir evaluate -m peer:NAME"
            )
        # Published numbers are those of complete test sets. Old files do not tell.
        found = {
            key: s["psnr"]
            for key, s in content["benchmarks"].items()
            if s["psnr"] and s.get("incomplete") == ""
        }
        name = name or path.resolve().parent.name
        if str(content["model"]).startswith(PREFIX):
            return Result(name, None, None, found)
        network = MoCEIRConfig.from_dict(content["network"])
        return Result(name, content["parameters"], cost(network, 224, 224), found)
    except KeyError as error:
        raise ConfigError(f"{path}: not a results.json of moceir evaluate: no {error}") from error
    except (AttributeError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a results.json of moceir evaluate ({error})") from error


def common_columns(setting: Setting, results: list[Result]) -> list[str]:
    """The benchmarks of a setting that every result has, over their whole test sets.

    Raises:
        ConfigError: there is none.
    """
    columns = [c for c in setting.columns if all(c in result.psnr for result in results)]
    if not columns:
        needed = ", ".join(setting.columns)
        raise ConfigError(
            f"the results share no benchmark of {setting.title} ({needed}) with its whole test "
            'set (a results.json without "incomplete" is of an older version, and does not count): '
            "evaluate one, or choose another setting",
            "setting",
        )
    return columns


def quality_figure(results: list[Result], setting: str) -> Figure:
    """Mean PSNR over the common benchmarks, for the papers' methods and for ours.

    The bar at a point extends from the cheapest to the most expensive route. Classical methods,
    which have no parameters, are dashed lines.

    Raises:
        ConfigError: nothing in common with the setting.
    """
    published = SETTINGS[setting]
    columns = common_columns(published, results)
    where = [list(published.columns).index(column) for column in columns]
    figure = new(9, 3.6)
    by_size, by_compute = figure.subplots(1, 2, sharey=True)

    def point(panel: object, x: float, y: float, name: str, ours: bool) -> None:
        colour = EXPERTS[3] if ours else "#555555"
        panel.plot(x, y, "*" if ours else "o", color=colour, ms=10 if ours else 6)  # type: ignore[attr-defined]
        panel.annotate(  # type: ignore[attr-defined]
            name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour
        )

    for method in published.methods:
        quality = fmean(method.scores[i][0] for i in where)
        point(by_size, method.parameters, quality, method.name, ours=False)
        if method.name in PAPER_GIGAMACS:
            point(by_compute, PAPER_GIGAMACS[method.name], quality, method.name, ours=False)
    for result in results:
        quality = fmean(result.psnr[column] for column in columns)
        if result.parameters is None or result.cost is None:
            for panel in (by_size, by_compute):
                panel.axhline(quality, color=EXPERTS[0], ls="--", lw=1)
                panel.annotate(
                    result.name, (1, quality), xycoords=("axes fraction", "data"), ha="right",
                    xytext=(-4, 3), textcoords="offset points", fontsize=8, color=EXPERTS[0],
                )  # fmt: skip
            continue
        point(by_size, result.parameters / 1e6, quality, result.name, ours=True)
        low, high = result.cost.cheapest / 1e9, result.cost.most_expensive / 1e9
        by_compute.plot([low, high], [quality, quality], color=EXPERTS[3], lw=2)
        point(by_compute, (low + high) / 2, quality, result.name, ours=True)
    shown = ", ".join(published.columns[column] for column in columns)
    by_size.set(xlabel="parameters, millions", ylabel="PSNR, dB")
    by_compute.set(xlabel="multiply-accumulates at 224 x 224, G")
    figure.suptitle(f"{published.title}; mean of {shown}", fontsize=10)
    for panel in (by_size, by_compute):
        panel.grid(alpha=0.3)
        panel.set_xlim(0, 1.25 * panel.get_xlim()[1])  # room for the name of the last point
        panel.margins(y=0.15)
    return figure
