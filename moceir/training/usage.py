"""Which experts each degradation takes during training, and what that computes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moceir.evaluation.cost import cost
from moceir.files import naming, whole_file
from moceir.training.config import TrainingConfig


class ExpertUsage:
    """Writes which experts each degradation took at each decoder block.

    Every ``log_every`` steps the counts since then become lines of ``experts.csv``: step,
    degradation, block (1 the first that runs), and how many patches took each expert. The curves
    get the shares over all blocks, ``experts/<degradation>/<expert>`` and ``experts/all/<expert>``,
    and ``compute/forward_petamacs``, the multiply-accumulates of all forward passes so far (a
    backward pass costs about twice as much again).
    """

    def __init__(self, config: TrainingConfig, labels: Sequence[str]) -> None:
        self.path = config.run / "experts.csv"
        self.labels = labels
        self.cost = cost(config.network(), config.data.crop, config.data.crop)
        self.macs = 0

    def write(self, counts: Tensor, step: int) -> dict[str, float]:
        """Add lines; returns the points of the curves.

        counts: (labels, D, n) int64 on the host, since the lines before.
        """
        self.macs += self.cost.of_counts(counts.sum(0))
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        if not self.path.exists():
            names = [f"expert_{i + 1}" for i in range(counts.shape[2])]
            writer.writerow(["step", "degradation", "block", *names])
        for label, of_label in zip(self.labels, counts.tolist(), strict=True):
            for block, row in enumerate(of_label, start=1):
                if any(row):
                    writer.writerow([step, label, block, *row])
        with naming(self.path), open(self.path, "a", newline="") as file:
            file.write(lines.getvalue())
        values = {"compute/forward_petamacs": self.macs / 1e15}
        for label, of in [*zip(self.labels, counts, strict=True), ("all", counts.sum(0))]:
            total = int(of.sum())
            for expert, number in enumerate(of.sum(0).tolist() if total else [], start=1):
                values[f"experts/{label}/{expert}"] = number / total
        return values

    def state_dict(self, counts: Tensor) -> dict[str, Any]:
        """Of a checkpoint; ``counts``: those since the last lines."""
        return {"counts": counts, "macs": self.macs}

    def load_state_dict(self, state: dict[str, Any], counts: Tensor, step: int) -> None:
        """Go on at a step; ``counts`` gets what no line has yet, unless the labels are others."""
        self.macs = state.get("macs", 0)
        kept = state.get("counts")
        if kept is not None and kept.shape == counts.shape:
            counts.copy_(kept)
        self._drop_after(step)

    def forget(self) -> None:
        """Remove the file of an earlier attempt."""
        self.path.unlink(missing_ok=True)

    def _drop_after(self, step: int) -> None:
        """Forget the lines of steps that a resumed run does again, and one that was cut short."""
        if not self.path.exists():
            return
        head, *lines = self.path.read_text().splitlines() or [""]
        if not head:  # a disk was full at the first line
            return self.forget()
        kept = [
            line
            for line in lines
            if line.count(",") == head.count(",") and int(line.split(",")[0]) <= step
        ]
        if len(kept) < len(lines):
            with whole_file(self.path) as temporary:
                temporary.write_text("\n".join([head, *kept]) + "\n")


def read_usage(path: Path) -> dict[str, Tensor]:
    """Of each degradation in an ``experts.csv``: (steps, D, n) counts, the steps in order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is none.
    """
    with open(path, newline="") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        if head[:3] != ["step", "degradation", "block"]:
            raise ValueError(f"{path}: not an experts.csv of a training run")
        rows = [(int(step), label, int(block), [*map(int, n)]) for step, label, block, *n in reader]
    steps = sorted({row[0] for row in rows})
    blocks, experts = max(row[2] for row in rows), len(head) - 3
    found: dict[str, Tensor] = {}
    for step, label, block, numbers in rows:
        shape = (len(steps), blocks, experts)
        table = found.setdefault(label, torch.zeros(shape, dtype=torch.int64))
        table[steps.index(step), block - 1] = torch.tensor(numbers)
    return found
