"""lease.jsonl as tables for people: lease.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moceir.files import whole_file

Row = dict[str, Any]


def write_table(out: Path) -> str:
    rows = [json.loads(line) for line in (out / "lease.jsonl").read_text().splitlines()]
    text = markdown(rows)
    with whole_file(out / "lease.md") as temporary:
        temporary.write_text(text)
    return text


def table(head: str, lines: Iterable[Iterable[Any]]) -> list[str]:
    names = head.split(" | ")
    rule = " | ".join("---:" if n.startswith("*") else "---" for n in names)
    body = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return ["", f"| {head.replace('*', '')} |", f"| {rule} |", *body] if body else []


def number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if isinstance(value, int | float) else "-"


def of(rows: list[Row], *keys: str) -> list[Row]:
    return [r for r in rows if all(k in r for k in keys)]


def markdown(rows: list[Row]) -> str:
    version = next(iter(of(rows, "torch", "triton")), {})
    lease = next(iter(of(rows, "commit")), {})
    dry = ", tried on a CPU with small inputs" if lease.get("dry") else ""
    lines = [f"# What a GPU showed{dry}", ""]
    lines.append(f"- commit {lease.get('commit')}, {lease.get('date')}")
    lines += [
        f"- {k}: {version.get(k)}"
        for k in ("device", "driver", "torch", "cuda", "triton", "python")
    ]
    for ceiling in of(rows, "ceiling"):
        unit = "TB/s" if "TB/s" in ceiling else "TFLOP/s"
        lines.append(f"- {ceiling['ceiling']}: {number(ceiling.get(unit))} {unit}")
    lines += table(
        "step | outcome | *seconds",
        ((r["step"], r["outcome"], r["seconds"]) for r in of(rows, "outcome")),
    )
    lines += ["", "## Right?", *correctness(rows)]
    bad = [r for r in rows if r.get("ok") is False]
    for r in bad[:60]:
        what = {k: v for k, v in r.items() if k not in ("ok", "step")}
        lines += ["", f"- {r['step']}: {json.dumps(what)}"]
    lines += ["", "## The network", *whole(rows)]
    lines += slices(rows)
    lines += ["", "## Operators", *operators(rows)]
    lines += kernels(rows)
    return "\n".join(lines) + "\n"


def correctness(rows: list[Row]) -> list[str]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for r in of(rows, "operator", "backend", "sample"):
        groups.setdefault((r["operator"], r["backend"], r["dtype"]), []).append(r)
    lines = table(
        "operator | backend | dtype | *samples | *right | *worst, of what is allowed",
        (
            (*key, len(g), sum(r["ok"] for r in g), number(max(r.get("share", 9e9) for r in g)))
            for key, g in sorted(groups.items())
        ),
    )
    lines += table(
        "network | precision | *error | *of what is allowed | in",
        (
            (r["network"], r["precision"], number(r["error"]), number(r["share"]), r["worst"])
            for r in of(rows, "network", "share")
        ),
    )
    lines += table(
        "check | right",
        (
            (r[key], r["ok"])
            for r in rows
            for key in ("without_waiting", "graph", "check")
            if key in r
        ),
    )
    return lines


def whole(rows: list[Row]) -> list[str]:
    return table(
        "task | dtype | contender | run | *ms | *from | *to | *MB",
        (
            (
                *(r["task"], r["dtype"], r["contender"], r["run"]),
                *(number(r.get(k), 4) for k in ("ms", "least", "greatest")),
                number(r.get("MB"), 5) if "problem" not in r else r["problem"][:120],
            )
            for r in sorted(of(rows, "task", "contender"), key=lambda r: (r["task"], r["dtype"]))
            if r["run"] != "compile"
        ),
    )


def slices(rows: list[Row]) -> list[str]:
    lines = table(
        "trained to step | *seconds | *bytes | files | left behind",
        (
            (
                *(r["trained"], number(r["seconds"])),
                *(f"{sum(r['files'].values()):,}", len(r["files"]), r["result"]),
            )
            for r in of(rows, "trained")
        ),
    )
    return ["", "## A slice of training", *lines] if lines else []


def operators(rows: list[Row]) -> list[str]:
    copy = next((r["TB/s"] for r in of(rows, "TB/s")), None)

    def share(r: Row) -> str:
        if copy is None or "ms" not in r or r["direction"] != "forward":
            return "-"
        return f"{r['bytes'] / r['ms'] / 1e9 / copy:.0%}"

    lines = table(
        "operator | size | dtype | direction | backend | *ms | *of the copy's bandwidth",
        (
            (
                *(r["operator"], r["size"], r["dtype"], r["direction"], r["backend"]),
                *(number(r.get("ms")), share(r)),
            )
            for r in of(rows, "operator", "direction")
        ),
    )
    return lines + table(
        "experts | dtype | direction | *ms",
        (
            (r["contender"], r["dtype"], r["direction"], number(r.get("ms")))
            for r in of(rows, "contender", "direction")
        ),
    )


def kernels(rows: list[Row]) -> list[str]:
    lines: list[str] = []
    for r in of(rows, "kernels", "task"):
        lines += [
            "",
            f"## Kernels of {r['task']}, {r['dtype']}: {r['kernels']}, {number(r['ms'])} ms",
        ]
        lines += table(
            "kernel | *launches | *ms",
            (
                (k["kernel"], k["launches"], number(k["ms"]))
                for k in of(rows, "kernel", "launches")
                if (k["task"], k["dtype"]) == (r["task"], r["dtype"])
            ),
        )
    return lines
