"""A small tree of data sets in the published layout, made from any clean pictures.

    python bench/published_tree.py PICTURES TREE

Every set of AIO-5, to train and to test, with a few pictures cut from those of the folder PICTURES
and degraded by ``moceir.data.degradations``: to try the commands of docs/training.md without the
sets of the literature. Numbers measured on it mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import click
from PIL import Image

from moceir.data.degradations import degrade, parse
from moceir.pictures.images import find_pictures, open_rgb, save_image
from moceir.pictures.pixels import to_image, to_tensor

# Of each set of pairs: what is done, the degraded folder, its names, the clean folder, its names.
PAIRS = (
    (
        "rain",
        "deraining/RainTrainL/rainy",
        "rain-{}.png",
        "deraining/RainTrainL/gt",
        "norain-{}.png",
    ),
    ("rain", "deraining/Rain100L/rainy", "{}.png", "deraining/Rain100L/gt", "{}.png"),
    ("haze", "dehazing/RESIDE/part1", "{}_0.8_0.1.jpg", "dehazing/RESIDE/clear", "{}.jpg"),
    ("haze", "dehazing/SOTS/outdoor/hazy", "{}_0.8_0.2.jpg", "dehazing/SOTS/outdoor/gt", "{}.png"),
    (
        "motion_blur",
        "deblurring/GoPro/crop/train/input_crops",
        "{}-s001.png",
        "deblurring/GoPro/crop/train/target_crops",
        "{}-s001.png",
    ),
    (
        "motion_blur",
        "deblurring/GoPro/test/input",
        "{}.png",
        "deblurring/GoPro/test/target",
        "{}.png",
    ),
    ("low_light", "llie/LOLv1/Train/input", "{}.png", "llie/LOLv1/Train/target", "{}.png"),
    ("low_light", "llie/LOLv1/Test/input", "{}.png", "llie/LOLv1/Test/target", "{}.png"),
)
CLEAN = (
    ("denoising/WaterlooED", "{:05}.bmp"),
    ("denoising/BSD400", "{}.jpg"),
    ("denoising/cBSD68/original_png", "{:04}.png"),
)


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path))
@click.argument("tree", type=click.Path(path_type=Path))
@click.option("--number", default=4, show_default=True, help="Pictures of each set.")
@click.option("--side", default=160, show_default=True, help="Of a picture, pixels.")
def main(pictures: Path, tree: Path, number: int, side: int) -> None:
    """Build the tree."""
    if tree.exists():
        raise click.ClickException(f"{tree} is already there: choose another folder")
    paths = find_pictures(pictures)
    taken = 0

    def next_clean() -> Image.Image:
        nonlocal taken
        image = open_rgb(paths[taken % len(paths)])
        left, top = (image.width - side) // 2, (image.height - side) // 2
        taken += 1
        return image.crop((left, top, left + side, top + side))

    for folder, name in CLEAN:
        for i in range(1, number + 1):
            save_image(next_clean(), tree / folder / name.format(i))
    for kind, folder, name, clean_folder, clean_name in PAIRS:
        for i in range(1, number + 1):
            clean = next_clean()
            degraded = degrade(to_tensor(clean)[None], parse(kind), seed=taken)[0]
            save_image(clean, tree / clean_folder / clean_name.format(i))
            save_image(to_image(degraded), tree / folder / name.format(i))
    click.echo(f"{tree}: {number} images of {side} x {side} in each set")


if __name__ == "__main__":
    main()
