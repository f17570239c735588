"""Which experts each degradation is routed to (Fig. 5 of the paper), and how that evolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from moceir.figures.draw import EXPERTS, new


def routes_figure(counts: Mapping[str, Tensor]) -> Figure:
    """A panel for each degradation: blocks across, experts up, the share of images as the shade.

    counts: of each degradation, (D, n) as from ``moceir.evaluation.routes.routes``.
    """
    blocks, n = next(iter(counts.values())).shape
    columns = min(4, len(counts))
    rows = -(-len(counts) // columns)
    figure = new(1.2 + max(1.6, 0.28 * blocks) * columns, 0.5 + 1.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    shade = None
    for panel, (label, table) in zip(panels.flat, counts.items(), strict=False):
        share = (table.double() / table.sum(1, keepdim=True).clamp_min(1)).T.numpy()
        shade = panel.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto", origin="lower")
        panel.set_title(f"{label} ({int(table[0].sum())})", fontsize=9)
        panel.set_xticks(range(blocks), [str(b + 1) for b in range(blocks)], fontsize=7)
        panel.set_yticks(range(n), [str(e + 1) for e in range(n)], fontsize=7)
    for panel in panels.flat[len(counts) :]:
        panel.set_visible(False)
    figure.supxlabel("decoder block, deepest first", fontsize=9)
    figure.supylabel("expert, 1 the cheapest", fontsize=9)
    assert shade is not None
    figure.colorbar(shade, ax=panels, label="share of the images", shrink=0.8)
    return figure


def usage_figure(runs: Mapping[str, Mapping[str, Tensor]], bins: int = 20) -> Figure:
    """A panel for each training run: the share of each expert over the run, all blocks together.

    Args:
        runs: by name, what ``read_usage`` gives.
        bins: stretches of the run whose counts are added up.
    """
    figure = new(0.6 + 3.2 * len(runs), 2.8)
    panels: Sequence = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for panel, (name, usage) in zip(panels, runs.items(), strict=True):
        total = torch.stack(list(usage.values())).sum(dim=(0, 2))  # (steps, n)
        parts = [part.sum(0) for part in total.tensor_split(min(bins, len(total)))]
        counts = torch.stack(parts).double()
        share = (counts / counts.sum(1, keepdim=True).clamp_min(1)).T.numpy()
        across = (np.arange(share.shape[1]) + 0.5) / share.shape[1] * 100
        names = [f"expert {e + 1}" for e in range(len(share))]
        panel.stackplot(across, share, colors=EXPERTS[: len(share)], labels=names)
        panel.set(title=name, xlabel="share of the run, %", ylim=(0, 1), xlim=across[[0, -1]])
    panels[0].set_ylabel("share of the patches")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, frameon=False)
    return figure
