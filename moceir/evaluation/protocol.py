"""The protocols of the published tables: what is cropped, how noise is made, what is measured."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moceir.data.datasets import BENCHMARKS, Pair, check_sizes, pair_folders, pairs_of
from moceir.data.degradations import GaussianNoise, generator_for
from moceir.errors import ConfigError, PictureError, check_several
from moceir.pictures.images import open_rgb
from moceir.pictures.pixels import to_tensor

SIGMAS = (15, 25, 50)
"""Noise levels of the denoising tables, on the 0..255 scale."""


@dataclass(frozen=True)
class Protocol:
    """How a table was measured: RGB, PSNR and SSIM of restored values clamped to [0, 1] and not
    rounded to 8 bits.

    Args:
        name: ``published`` or ``promptir``.
        ssim_window: see ``metrics.ssim``.
        crop: pictures are cropped about their middle to multiples of this, but for CDD11.
    """

    name: str
    ssim_window: str
    crop: int = 16

    @property
    def description(self) -> str:
        """For captions."""
        window = {"gaussian": "Gaussian window, 11 x 11", "uniform": "uniform window, 7 x 7"}
        return (
            f"protocol {self.name}: RGB, cropped about the middle to multiples of {self.crop} "
            f"(CDD11: not cropped), SSIM with a {window[self.ssim_window]}"
        )


PROTOCOLS = {
    "published": Protocol("published", "gaussian"),
    "promptir": Protocol("promptir", "uniform"),
}
"""That of the published MoCE-IR, and that of AirNet and PromptIR, whose SSIM has another window."""


@dataclass(frozen=True)
class Benchmark:
    """Images to measure on, under one degradation.

    Args:
        name: such as ``rain100l``, ``cbsd68-25`` or ``cdd11-low_rain``; of a pair of folders a
            path with a separator, such as ``./rainy``.
        title: as papers write it.
        task: what is wrong with the images.
        pairs: the images.
        sigma: of the noise put on the clean images; None: there are degraded ones.
        crops: False: these images are not cropped under any protocol.
    """

    name: str
    title: str
    task: str
    pairs: tuple[Pair, ...]
    sigma: int | None = None
    crops: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images, below the folder that holds them all: sequences number theirs alike."""
        files = [pair.degraded or pair.clean for pair in self.pairs]
        root = os.path.commonpath([file.parent for file in files])
        return tuple(file.relative_to(root).as_posix() for file in files)

    def load(self, pair: Pair, protocol: Protocol, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A degraded image and the clean one, (3, H, W) float32 in [0, 1], cropped.

        The noise is clipped and truncated to 8 bits, as in the published code. It is a function of
        the file's name, the sigma and the seed, and of no other image.

        Raises:
            PictureError: a file that cannot be read, or two of different sizes.
        """
        clean = open_rgb(pair.clean)
        degraded = None
        if pair.degraded is not None:
            degraded = open_rgb(pair.degraded)
            check_sizes(pair, degraded.size, clean.size)
        multiple = protocol.crop if self.crops else 1
        target = centre_crop(to_tensor(clean), multiple)
        if 0 in target.shape:
            raise PictureError(
                f"{pair.clean} is {clean.width} x {clean.height} pixels: the protocol crops to "
                f"multiples of {multiple}, which leaves nothing"
            )
        if degraded is not None:
            return centre_crop(to_tensor(degraded), multiple), target
        assert self.sigma is not None
        # crc32 of the name: the same on every machine, and wherever the folder is.
        generator = generator_for(seed * 1000 + self.sigma, zlib.crc32(pair.clean.stem.encode()))
        return GaussianNoise(self.sigma)(target[None], generator)[0], target


def centre_crop(image: Tensor, multiple: int) -> Tensor:
    """The middle of (..., H, W) whose sides are multiples; an odd rest is left at the end."""
    height, width = image.shape[-2:]
    top, left = height % multiple // 2, width % multiple // 2
    return image[
        ..., top : top + height // multiple * multiple, left : left + width // multiple * multiple
    ]


def benchmarks(
    names: Sequence[str],
    data: Path | str | None = None,
    sigmas: Sequence[int] = SIGMAS,
    folders: Sequence[tuple[Path | str, Path | str]] = (),
) -> list[Benchmark]:
    """Benchmarks by name, and any pairs of folders. No image is opened.

    Args:
        names: from ``BENCHMARKS``, such as ``rain100l``. ``cdd11`` stands for all eleven. A
            denoising set gives one benchmark per sigma; ``cbsd68-25`` is a single one.
        data: the folder that holds the data sets.
        sigmas: noise levels of the denoising sets, on the 0..255 scale.
        folders: pairs of a folder of degraded and one of clean images with the same names.

    Raises:
        ConfigError: an unknown name, or ``data`` is missing.
        PictureError: a folder is missing, empty or unpaired.
    """
    check_several("names", names)
    found: list[Benchmark] = []
    for name in names:
        base, _, suffix = name.partition("-")
        if name == "cdd11":
            found += benchmarks([n for n in BENCHMARKS if n.startswith("cdd11-")], data)
            continue
        noise = suffix.isdigit() and base in BENCHMARKS and BENCHMARKS[base].task == "noise"
        key = base if noise else name
        if key not in BENCHMARKS:
            known = ", ".join([*(n for n in BENCHMARKS if not n.startswith("cdd11")), "cdd11"])
            raise ConfigError(
                f"unknown benchmark {name!r}: known: {known}, a folder of cdd11 as in "
                "cdd11-low_haze, or one noise level as in cbsd68-25"
            )
        if data is None:
            raise ConfigError(f"benchmark {name}: name the folder that holds the data sets", "data")
        spec = BENCHMARKS[key]
        pairs = tuple(pairs_of(spec, Path(data)))
        if spec.layouts[0].degraded is not None:
            crops = not key.startswith("cdd11-")
            found.append(Benchmark(key, spec.title, spec.task, pairs, crops=crops))
            continue
        for sigma in [int(suffix)] if noise else sigmas:
            if not 0 < sigma <= 100:
                raise ConfigError(f"sigma {sigma}: give 1 to 100, on the 0..255 scale", "sigmas")
            title = f"{spec.title}, sigma {sigma}"
            found.append(Benchmark(f"{key}-{sigma}", title, spec.task, pairs, sigma))
    for degraded, clean in ((Path(d), Path(c)) for d, c in folders):
        task = degraded.resolve().name
        # Never the name of a published benchmark, beside which the papers' rows would stand.
        name = str(degraded)
        name = name if os.sep in name else os.path.join(os.curdir, name)
        found.append(Benchmark(name, str(degraded), task, tuple(pair_folders(degraded, clean))))
    doubles = {b.name for b in found if sum(other.name == b.name for other in found) > 1}
    if doubles:
        raise ConfigError(f"benchmarks given twice: {', '.join(sorted(doubles))}")
    return found
