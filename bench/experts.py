"""Do experts help, and under which conditions? Five ways to train one network from random weights.

    python bench/experts.py TRAIN VALIDATION OUT [--steps 600] [--seeds 2]

``A`` balance; ``B`` complexity, as in the paper; ``C`` as B, and the experts' output reaches the
features (``expert_path``); ``D`` as C, and in the first part of a run the routers are trained
towards one expert per degradation; ``E`` as C, but every image goes to the third expert.

Each run is a single-threaded process, and its result is written to OUT at once; runs that are
already there are not repeated. At the end: a table and a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

KINDS = ("noise", "rain", "haze", "low_light")
EXPERT_OF = {"noise": 1, "low_light": 2, "rain": 3, "haze": 4}
"""What D is taught first: the wider a view a kind needs, the wider the window."""
VARIANTS: dict[str, dict[str, Any]] = {
    "A": {"model": {"router": "balance", "expert_path": False}},
    "B": {"model": {"router": "complexity", "expert_path": False}},
    "C": {"model": {"router": "complexity", "expert_path": True}},
    "D": {
        "model": {"router": "complexity", "expert_path": True},
        "expert_of": EXPERT_OF,
        "warm": True,
    },
    "E": {
        "model": {"router": "supervised", "expert_path": True},
        "expert_of": dict.fromkeys((*KINDS, "several"), 3),
    },
}
TITLES = {
    "A": "balance",
    "B": "complexity (paper)",
    "C": "B and expert_path",
    "D": "C and a warm-up",
    "E": "one expert for all",
}


def run(variant: str, seed: int, steps: int, train: Path, validation: Path, out: Path) -> None:
    """One run, its gains, and which experts it takes."""
    from moceir.evaluation.experts import centre, gains
    from moceir.model import load_model
    from moceir.pictures.images import find_pictures
    from moceir.training.options import build
    from moceir.training.run import train as train_network
    from moceir.training.usage import read_usage

    options = dict(VARIANTS[variant])
    warm = options.pop("warm", False)
    folder = out / f"{variant}{seed}"
    config = {
        "run": str(folder),
        "preset": "compact",
        "data": {
            "train": str(train), "kinds": list(KINDS), "max_mixture": 1, "crop": 64,
            "batch_size": 16,
        },
        "optimizer": {
            "muon": True, "lr": 1e-3, "warmup_steps": 30, "weight_decay": 0.0,
            "ema_decay": 0.99, "spectrum_weight": 0.0, "loss": "relative_l2",
        },
        "steps": steps, "seed": 1000 * seed, "precision": "32-true", "accelerator": "cpu",
        "checkpoint_every": steps, "validate_every": steps,
        "routing_warmup": steps // 3 if warm else 0, **options,
    }  # fmt: skip
    weights = train_network(build(config))
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    pictures = [centre(path, 192) for path in find_pictures(validation)]
    network = load_model(weights)
    rows = {kind: gains(network, pictures, kind, "medium") for kind in KINDS}
    usage = {k: t[len(t) // 2 :].sum((0, 1)) for k, t in read_usage(folder / "experts.csv").items()}
    result = {
        "variant": variant, "seed": seed, "steps": steps, "seconds": seconds, "rows": rows,
        "usage": {kind: (n / n.sum()).tolist() for kind, n in usage.items()},
    }  # fmt: skip
    (out / f"{variant}{seed}.json").write_text(json.dumps(result, indent=1))


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: means over kinds, strengths and seeds, each seed in brackets."""
    from moceir.evaluation.experts import spread

    lines = [
        "| | gain, dB | best - worst expert, dB | routed - without experts, dB "
        "| expert 1 / 2 / 3 / 4, % | CPU seconds |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for variant, title in TITLES.items():
        of = [r for r in results if r["variant"] == variant]
        if not of:
            continue

        def cell(value: Any, of: list[dict[str, Any]] = of) -> str:
            each = [fmean(value(row) for row in r["rows"].values()) for r in of]
            return f"{fmean(each):.2f} ({', '.join(f'{v:.2f}' for v in each)})"

        shares = [fmean(u[i] for r in of for u in r["usage"].values()) for i in range(4)]
        lines.append(
            f"| {variant}: {title} | {cell(lambda row: row['routed'])} | {cell(spread)} "
            f"| {cell(lambda row: row['routed'] - row['without'])} "
            f"| {' / '.join(f'{100 * s:.0f}' for s in shares)} "
            f"| {fmean(r['seconds'] for r in of):.0f} |"
        )
    return "\n".join(lines)


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Which experts each degradation takes, in the second half of every run."""
    import numpy as np

    from moceir.figures.draw import EXPERTS, new, save

    shown = [v for v in TITLES if any(r["variant"] == v for r in results)]
    drawn = new(2.1 * len(shown), 2.6)
    panels = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, variant in zip(panels, shown, strict=True):
        of = [r for r in results if r["variant"] == variant]
        shares = np.array([[fmean(r["usage"][k][i] for r in of) for i in range(4)] for k in KINDS])
        left = np.zeros(len(KINDS))
        for i in range(4):
            panel.barh(range(len(KINDS)), shares[:, i], left=left, color=EXPERTS[i])
            left += shares[:, i]
        panel.set_title(f"{variant}: {TITLES[variant]}", fontsize=8)
        panel.set_yticks(range(len(KINDS)), KINDS, fontsize=8)
        panel.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=7)
    save(drawn, [path])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "validation", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", default="".join(VARIANTS))
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    places = options.train, options.validation, options.out
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        variant, seed = options.one
        return run(variant, int(seed), options.steps, *places)
    for seed in range(options.seeds):
        for variant in options.variants:
            if not (options.out / f"{variant}{seed}.json").exists():
                command = [sys.executable, __file__, *map(str, places), "--one", variant, str(seed)]
                command += ["--steps", str(options.steps)]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    results = [json.loads(p.read_text()) for p in sorted(options.out.glob("??.json"))]
    print(table(results))
    figure(results, options.out / "usage.png")


if __name__ == "__main__":
    main()
