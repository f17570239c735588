"""Small data sets in the layouts of the field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from moceir.data.datasets import CDD11


def picture(path: Path, width: int = 40, height: int = 36, seed: int | None = None) -> Path:
    """A smooth picture of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(str(path)) if seed is None else seed)
    coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path, quality=95)
    return path


def published(root: Path) -> Path:
    """All sets in the layout of the published code, one to three pictures each."""
    for folder, names in {
        "denoising/WaterlooED": ["00001.bmp", "00002.bmp"],
        "denoising/BSD400": ["test_001.jpg"],
        "denoising/cBSD68/original_png": ["0000.png", "0001.png"],
        "denoising/Kodak24": ["kodim01.png"],
        "denoising/Urban100": ["img_001.png"],
        "deraining/RainTrainL/rainy": ["rain-1.png", "rain-2.png"],
        "deraining/RainTrainL/gt": ["norain-1.png", "norain-2.png"],
        "deraining/Rain100L/rainy": ["1.png", "2.png"],
        "deraining/Rain100L/gt": ["1.png", "2.png"],
        "dehazing/RESIDE/part1": ["0025_0.8_0.04.jpg", "0025_0.8_0.06.jpg"],
        "dehazing/RESIDE/part2": ["3068_1_0.1.jpg"],
        "dehazing/RESIDE/clear": ["0025.jpg", "3068.jpg"],
        "dehazing/SOTS/outdoor/hazy": ["0001_0.8_0.2.jpg"],
        "dehazing/SOTS/outdoor/gt": ["0001.png"],
        "deblurring/GoPro/crop/train/input_crops": ["GOPR0372_07_00-000047-s001.png"],
        "deblurring/GoPro/crop/train/target_crops": ["GOPR0372_07_00-000047-s001.png"],
        "deblurring/GoPro/test/input": ["GOPR0384_11_00-000001.png"],
        "deblurring/GoPro/test/target": ["GOPR0384_11_00-000001.png"],
        "llie/LOLv1/Train/input": ["2.png"],
        "llie/LOLv1/Train/target": ["2.png"],
        "llie/LOLv1/Test/input": ["1.png"],
        "llie/LOLv1/Test/target": ["1.png"],
    }.items():
        for name in names:
            picture(root / folder / name)
    for split in ("train", "test"):
        for kind in ("clear", *CDD11):
            picture(root / "cdd11" / split / kind / "00001.png", 41, 37)
    return root


def promptir(root: Path) -> Path:
    """All sets in the layout of PromptIR and AdaIR."""
    for name in (
        *("Train/Denoise/00001.bmp", "Train/Denoise/a1.jpg"),
        *("Train/Derain/rainy/rain-1.png", "Train/Derain/gt/norain-1.png"),
        *("Train/Dehaze/synthetic/part1/0025_0.8_0.04.jpg", "Train/Dehaze/original/0025.jpg"),
        *("Train/Deblur/blur/1.png", "Train/Deblur/sharp/1.png"),
        *("Train/Enhance/low/2.png", "Train/Enhance/gt/2.png"),
        *("test/denoise/bsd68/a.png", "test/denoise/urban100/b.png", "test/denoise/kodak24/c.png"),
        *("test/derain/Rain100L/input/1.png", "test/derain/Rain100L/target/1.png"),
        *("test/dehaze/input/0001_0.8_0.2.jpg", "test/dehaze/target/0001.png"),
        *("test/deblur/gopro/input/1.png", "test/deblur/gopro/target/1.png"),
        *("test/enhance/lol/input/1.png", "test/enhance/lol/target/1.png"),
    ):
        picture(root / name)
    return root
