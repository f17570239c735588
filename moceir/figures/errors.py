"""Images with maps of their errors (Fig. 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from moceir.data.datasets import Pair, check_sizes
from moceir.evaluation.metrics import psnr
from moceir.figures.draw import new
from moceir.inference.restorer import Restorer
from moceir.model import MoCEIR
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_tensor


class Example(NamedTuple):
    """A degraded, a restored and a clean image, (3, H, W) in [0, 1]."""

    name: str
    degraded: Tensor
    restored: Tensor
    clean: Tensor


def examples(
    pairs: Sequence[tuple[Path | str, Path | str]],
    model: MoCEIR | Restorer | str | Path | None = None,
) -> list[Example]:
    """Restore pictures, for ``errors_figure``.

    Args:
        pairs: files of a degraded picture and the clean one.
        model: a ``Restorer``, or what it takes; None: the bundled specialists.

    Raises:
        PictureError: a file that cannot be read, or two of different sizes.
        WeightsError: weights that cannot be used.
    """
    opened = []
    for degraded, clean in ((Path(d), Path(c)) for d, c in pairs):
        images = open_rgb(degraded), open_rgb(clean)
        check_sizes(Pair(clean, degraded), images[0].size, images[1].size)
        opened.append((degraded.stem, to_tensor(images[0]), to_tensor(images[1])))
    restorer = model if isinstance(model, Restorer) else Restorer(model)
    return [Example(name, bad, restorer(bad[None])[0], good) for name, bad, good in opened]


def error_map(image: Tensor, clean: Tensor) -> Tensor:
    """(H, W) mean absolute difference over the channels."""
    return (image - clean).abs().mean(dim=0)


def errors_figure(examples: Sequence[Example]) -> Figure:
    """A row for each example: degraded, restored, clean, and the two errors on one scale."""
    aspect = max(e.clean.shape[1] / e.clean.shape[2] for e in examples)
    figure = new(11, 0.6 + 2.1 * aspect * len(examples))
    panels = figure.subplots(len(examples), 5, squeeze=False)
    for row, (name, degraded, restored, clean) in zip(panels, examples, strict=True):
        titles = (
            f"{name}, {psnr(degraded, clean):.2f} dB",
            f"restored, {psnr(restored, clean):.2f} dB",
            "clean",
        )
        for panel, title, image in zip(row, titles, (degraded, restored, clean), strict=False):
            panel.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
            panel.set_title(title, fontsize=8)
        before, after = error_map(degraded, clean), error_map(restored, clean)
        # One scale, so that the errors before and after can be compared.
        top = max(before.quantile(0.99).item(), 1 / 255) if before.numel() < 2**24 else before.max()
        for panel, title, errors in zip(
            row[3:], ("error before", "error after"), (before, after), strict=True
        ):
            shade = panel.imshow(errors.numpy(), vmin=0, vmax=float(top), cmap="magma")
            panel.set_title(title, fontsize=8)
        figure.colorbar(shade, ax=row[4], shrink=0.7)
        for panel in row:
            panel.set_axis_off()
    return figure
