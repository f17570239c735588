"""A Markdown table, and a roofline plot, of the microbenchmarks' JSON.

python -m pytest bench --benchmark-json=results.json
python -m bench.report results.json --table table.md --plot roofline.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moceir.files import whole_file

HEAD = (
    "| operator | size | dtype | direction | contender | median | against reference "
    "| GB/s | of copy | GFLOP/s | of matrix |\n"
    "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def results(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each benchmark: its extra_info, and the rates that its median makes."""
    machine = data["machine_info"]["moce"]
    rows = []
    for bench in data["benchmarks"]:
        row = dict(bench["extra_info"])
        row["seconds"] = bench["stats"]["median"] / row["calls"]
        row["bandwidth"] = row["bytes"] / row["seconds"]
        row["rate"] = row["flops"] / row["seconds"]
        row["of_copy"] = row["bandwidth"] / machine["copy_bytes_per_second"]
        matrix = machine["matrix_flops_per_second"].get(row["dtype"])
        row["of_matrix"] = row["rate"] / matrix if matrix else None
        rows.append(row)
    reference = {key(r): r["seconds"] for r in rows if r["contender"] == "reference"}
    for row in rows:
        row["speedup"] = reference[key(row)] / row["seconds"] if key(row) in reference else None
    return rows


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("operator", "size", "dtype", "direction"))


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def table(data: dict[str, Any]) -> str:
    machine = data["machine_info"]["moce"]
    matrix = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {name}"
        for name, rate in machine["matrix_flops_per_second"].items()
    )
    lines = [
        f"{machine['device']}, torch {machine['torch']}, commit {machine['commit'] or 'unknown'}, "
        f"{data['datetime'][:16]}. Measured in the same run: copy "
        f"{machine['copy_bytes_per_second'] / 1e9:,.1f} GB/s, matrix products {matrix}.",
        "",
        HEAD,
    ]
    for row in sorted(results(data), key=lambda r: (*key(r), r["seconds"])):
        speedup = "" if row["speedup"] is None else f"{row['speedup']:.2f}x"
        lines.append(
            f"| `{row['operator']}` | {row['size']} | {row['dtype']} | {row['direction']} "
            f"| {row['contender']} | {1e3 * row['seconds']:.3f} ms | {speedup} "
            f"| {row['bandwidth'] / 1e9:,.1f} | {percent(row['of_copy'])} "
            f"| {row['rate'] / 1e9:,.1f} | {percent(row['of_matrix'])} |"
        )
    return "\n".join(lines) + "\n"


def plot(data: dict[str, Any], path: Path) -> None:
    """FLOP/s over FLOPs for each byte, under the two roofs; one colour for each contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    machine = data["machine_info"]["moce"]
    rows = [row for row in results(data) if row["flops"]]
    figure, axes = pyplot.subplots(figsize=(9, 6))
    intensities = [row["flops"] / row["bytes"] for row in rows] or [1.0]
    low, high = min(intensities) / 2, max(intensities) * 2
    grid = [low * (high / low) ** (i / 200) for i in range(201)]
    for name, rate in machine["matrix_flops_per_second"].items():
        roof = [min(rate, machine["copy_bytes_per_second"] * x) for x in grid]
        axes.plot(grid, roof, color="black", linewidth=1)
        axes.annotate(f"matrix products, {name}", (grid[-1], roof[-1]), ha="right", va="bottom")
    for contender in sorted({row["contender"] for row in rows}):
        mine = [row for row in rows if row["contender"] == contender]
        axes.scatter(
            [row["flops"] / row["bytes"] for row in mine],
            [row["rate"] for row in mine],
            s=18,
            label=contender,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs for each byte that must be moved",
        ylabel="FLOP/s",
        title=f"{machine['device']}: slope is the measured copy bandwidth",
    )
    axes.legend()
    figure.tight_layout()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def merged(paths: Iterable[Path]) -> dict[str, Any]:
    """Several runs on one machine as one."""
    first, *rest = (json.loads(path.read_text()) for path in paths)
    for other in rest:
        if other["machine_info"]["moce"]["device"] != first["machine_info"]["moce"]["device"]:
            raise SystemExit("the results are from different machines")
        first["benchmarks"] += other["benchmarks"]
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON of pytest-benchmark")
    parser.add_argument("--table", type=Path, help="Markdown file; by default it is printed")
    parser.add_argument("--plot", type=Path, help="PNG file")
    arguments = parser.parse_args()
    data = merged(arguments.results)
    if arguments.table:
        with whole_file(arguments.table) as temporary:
            Path(temporary).write_text(table(data))
    else:
        print(table(data), end="")
    if arguments.plot:
        plot(data, arguments.plot)


if __name__ == "__main__":
    main()
