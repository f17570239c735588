"""The picture of docs/degradations.md: every kind of ``moceir.data.synthesis`` at three strengths.

python docs/pictures/degradations.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from moceir.data import synthesis
from moceir.pictures.images import find_pictures, open_rgb
from moceir.pictures.pixels import to_image, to_tensor

ROOT = Path(__file__).parents[2]
SIDE, MARGIN = 112, 84


def main() -> None:
    """Write docs/pictures/degradations.jpg."""
    samples = [open_rgb(path) for path in find_pictures(ROOT / "samples" / "clean")]
    crops = []
    for picture in samples:
        left, top = (picture.width - 2 * SIDE) // 2, (picture.height - 2 * SIDE) // 2
        crop = picture.crop((left, top, left + 2 * SIDE, top + 2 * SIDE))
        crops.append(to_tensor(crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    columns = 3 * len(synthesis.STRENGTHS)
    sheet = Image.new("RGB", (MARGIN + columns * SIDE, 16 + len(synthesis.KINDS) * SIDE), "white")
    text = ImageDraw.Draw(sheet)
    for row, kind in enumerate(synthesis.KINDS):
        text.text((4, 16 + row * SIDE + SIDE // 2), kind, fill="black")
        for column, strength in enumerate(np.repeat([*synthesis.STRENGTHS], 3)):
            clean = crops[(row + column) % len(crops)]
            made = synthesis.degrade(clean[None], synthesis.at(kind, str(strength), [column]))
            sheet.paste(to_image(made[0]), (MARGIN + column * SIDE, 16 + row * SIDE))
    for column, strength in enumerate(synthesis.STRENGTHS):
        text.text((MARGIN + (3 * column + 1) * SIDE, 2), strength, fill="black")
    sheet.save(ROOT / "docs" / "pictures" / "degradations.jpg", quality=85)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
