"""The data sets of the literature, in the folder layouts that the field uses.

A data set is a list of ``Pair``s: a clean picture, and the degraded one that belongs to it unless
the degradation is synthetic. Where its folders are looked for below a data folder is stated in
``TRAINING`` and ``BENCHMARKS``: first the layout of the published MoCE-IR, then that of AirNet,
PromptIR and AdaIR.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moceir.errors import PictureError
from moceir.pictures.images import find_pictures

CDD11 = (
    *("low", "haze", "rain", "snow"),
    *("low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow"),
    *("low_haze_rain", "low_haze_snow"),
)
"""The folders of CDD11, single degradations first, then pairs, then triples."""


class Pair(NamedTuple):
    """A clean picture and, unless the degradation is synthetic, the degraded one of it."""

    clean: Path
    degraded: Path | None = None


@dataclass(frozen=True)
class Layout:
    """Where a data set is below the data folder: one of several ways to arrange it.

    Args:
        clean: folder of the clean pictures.
        degraded: folder of the degraded pictures; None: the degradation is synthetic. Its
            subfolders count, so that OTS may be in parts. That of the clean pictures: each sequence
            in it has folders ``blur`` and ``sharp``.
    """

    clean: str
    degraded: str | None = None


@dataclass(frozen=True)
class SetSpec:
    """A data set of the literature.

    Args:
        title: as papers write it.
        task: what is wrong with its degraded pictures, the label under which experts are counted.
        layouts: tried in turn.
        names: candidates for the clean picture's stem, given the degraded one's.
    """

    title: str
    task: str
    layouts: tuple[Layout, ...]
    names: Callable[[str], tuple[str, ...]] = lambda stem: (stem,)


def _rain_names(stem: str) -> tuple[str, ...]:
    """``rain-12`` shows ``norain-12``; some copies call both the same."""
    return (stem, f"norain-{stem.removeprefix('rain-')}")


def _haze_names(stem: str) -> tuple[str, ...]:
    """``0025_0.8_0.04``, a haze with its airlight and beta, shows ``0025``."""
    return (stem, stem.split("_")[0])


def _field(task: str, clean: str, degraded: str | None = None) -> tuple[Layout, ...]:
    """A layout of AirNet, PromptIR and AdaIR, whose folders may also lie under ``data/``."""
    places = (f"{task}/", f"data/{task}/")
    return tuple(Layout(p + clean, None if degraded is None else p + degraded) for p in places)


def _cdd11(split: str) -> dict[str, SetSpec]:
    return {
        f"cdd11-{kind}": SetSpec(
            f"CDD11 {kind}",
            kind,
            tuple(
                Layout(f"{place}/clear", f"{place}/{kind}")
                for place in (f"cdd11/{split}", f"CDD-11/{split}", f"CDD-11_{split}")
            ),
        )
        for kind in CDD11
    }


TRAINING: dict[str, SetSpec] = {
    "wed": SetSpec("WED", "noise", (Layout("denoising/WaterlooED"), Layout("denoising/WED"))),
    "bsd400": SetSpec("BSD400", "noise", (Layout("denoising/BSD400"),)),
    "denoise": SetSpec("WED and BSD400 in one folder", "noise", _field("Train", "Denoise")),
    "raintrainl": SetSpec(
        "RainTrainL",
        "rain",
        (
            Layout("deraining/RainTrainL/gt", "deraining/RainTrainL/rainy"),
            *_field("Train", "Derain/gt", "Derain/rainy"),
        ),
        _rain_names,
    ),
    "ots": SetSpec(
        "RESIDE OTS",
        "haze",
        (
            Layout("dehazing/RESIDE/clear", "dehazing/RESIDE"),
            *_field("Train", "Dehaze/original", "Dehaze/synthetic"),
        ),
        _haze_names,
    ),
    "gopro": SetSpec(
        "GoPro in crops",
        "motion_blur",
        (
            Layout(
                "deblurring/GoPro/crop/train/target_crops",
                "deblurring/GoPro/crop/train/input_crops",
            ),
            *_field("Train", "Deblur/sharp", "Deblur/blur"),
        ),
    ),
    "lolv1": SetSpec(
        "LOL-v1",
        "low_light",
        (
            Layout("llie/LOLv1/Train/target", "llie/LOLv1/Train/input"),
            *_field("Train", "Enhance/gt", "Enhance/low"),
        ),
    ),
    **_cdd11("train"),
}
"""Sets to train on."""

BENCHMARKS: dict[str, SetSpec] = {
    "cbsd68": SetSpec(
        "CBSD68",
        "noise",
        (
            Layout("denoising/cBSD68/original_png"),
            Layout("denoising/CBSD68"),
            *_field("test", "denoise/bsd68"),
        ),
    ),
    "kodak24": SetSpec(
        "Kodak24", "noise", (Layout("denoising/Kodak24"), *_field("test", "denoise/kodak24"))
    ),
    "urban100": SetSpec(
        "Urban100", "noise", (Layout("denoising/Urban100"), *_field("test", "denoise/urban100"))
    ),
    "rain100l": SetSpec(
        "Rain100L",
        "rain",
        (
            Layout("deraining/Rain100L/gt", "deraining/Rain100L/rainy"),
            *_field("test", "derain/Rain100L/target", "derain/Rain100L/input"),
            *_field("test", "derain/target", "derain/input"),
        ),
        _rain_names,
    ),
    "sots": SetSpec(
        "SOTS outdoor",
        "haze",
        (
            Layout("dehazing/SOTS/outdoor/gt", "dehazing/SOTS/outdoor/hazy"),
            *_field("test", "dehaze/target", "dehaze/input"),
        ),
        _haze_names,
    ),
    "gopro": SetSpec(
        "GoPro",
        "motion_blur",
        (
            Layout("deblurring/GoPro/test/target", "deblurring/GoPro/test/input"),
            Layout("deblurring/GoPro/test", "deblurring/GoPro/test"),  # as its authors give it
            *_field("test", "deblur/gopro/target", "deblur/gopro/input"),
        ),
    ),
    "lolv1": SetSpec(
        "LOL-v1",
        "low_light",
        (
            Layout("llie/LOLv1/Test/target", "llie/LOLv1/Test/input"),
            *_field("test", "enhance/lol/target", "enhance/lol/input"),
        ),
    ),
    **_cdd11("test"),
}
"""Sets to measure on."""


def pairs_of(spec: SetSpec, data: Path) -> list[Pair]:
    """The pairs of a data set below the folder ``data``, sorted by the degraded file.

    Raises:
        PictureError: its folders are in none of the places, which are all named; or as
            ``pair_folders``.
    """
    if not data.is_dir():
        raise PictureError(f"{data}: no such folder: give the folder that holds the data sets")
    missing = []
    for layout in spec.layouts:
        folders = [data / f for f in (layout.clean, layout.degraded) if f is not None]
        if layout.clean == layout.degraded:  # one folder of sequences
            absent = [] if any(folders[0].glob("*/blur")) else [str(folders[0] / "*" / "blur")]
        else:
            absent = [str(folder) for folder in folders if not folder.is_dir()]
        if not absent:
            if layout.degraded is None:
                return [Pair(path) for path in find_pictures(folders[0])]
            return pair_folders(folders[1], folders[0], spec.names)
        missing.append(" and ".join(absent))
    raise PictureError(
        f"{spec.title} not found in {data}: looked for "
        + ", or ".join(missing)
        + "; put it in one of these places"
    )


def pair_folders(
    degraded: Path,
    clean: Path,
    names: Callable[[str], tuple[str, ...]] = lambda stem: (stem,),
) -> list[Pair]:
    """Degraded pictures with the clean pictures of the same name, whatever their suffixes.

    One folder for both is of sequences, as the authors of GoPro give it: a picture ``a/blur/1.png``
    belongs to ``a/sharp/1``.

    Args:
        degraded: folder of degraded pictures, searched with its subfolders; a picture ``a/b.png``
            of it belongs to ``a/b`` of ``clean``, or else to ``b``.
        clean: folder of clean pictures; it may lie inside ``degraded``.
        names: candidates for the clean picture's stem, given the degraded one's.

    Raises:
        PictureError: a folder is missing or empty, or a degraded picture has no clean one.
    """
    if os.path.realpath(degraded) == os.path.realpath(clean):
        return _pairs_of_sequences(clean)
    by_name: dict[str, Path] = {}
    for path in find_pictures(clean):
        by_name.setdefault(path.relative_to(clean).with_suffix("").as_posix(), path)
    inside = os.path.realpath(clean) + os.sep
    pairs, unpaired = [], []
    for path in find_pictures(degraded):
        if os.path.realpath(path).startswith(inside):
            continue
        place = path.relative_to(degraded).parent
        for name in names(path.stem):
            target = by_name.get((place / name).as_posix()) or by_name.get(name)
            if target is not None:
                pairs.append(Pair(target, path))
                break
        else:
            unpaired.append(path)
    if unpaired:
        expected = " or ".join(f"{name}.*" for name in dict.fromkeys(names(unpaired[0].stem)))
        more = f" (and {len(unpaired) - 1} more like it)" if len(unpaired) > 1 else ""
        raise PictureError(
            f"{unpaired[0]}: no matching clean image{more}: expected {expected} in {clean}"
        )
    if not pairs:
        raise PictureError(f"{degraded}: no images other than the clean ones in {clean}")
    return pairs


def _pairs_of_sequences(folder: Path) -> list[Pair]:
    pictures = find_pictures(folder)
    sharp = {path.with_suffix(""): path for path in pictures if path.parent.name == "sharp"}
    pairs = []
    for path in pictures:
        if path.parent.name == "blur":
            target = path.parents[1] / "sharp" / path.stem
            if target not in sharp:
                raise PictureError(f"{path}: no matching clean image: expected {target}.*")
            pairs.append(Pair(sharp[target], path))
    if not pairs:
        raise PictureError(
            f"{folder}: given as both degraded and clean images: give two folders, or one folder "
            "of sequences with subfolders blur and sharp, as in GoPro"
        )
    return pairs


def check_sizes(pair: Pair, degraded: tuple[int, int], clean: tuple[int, int]) -> None:
    """Refuse a pair of different sizes, each (width, height).

    Raises:
        PictureError: they differ.
    """
    if degraded != clean:
        raise PictureError(
            f"{pair.degraded} is {degraded[0]} x {degraded[1]} and its clean image {pair.clean} "
            f"{clean[0]} x {clean[1]} pixels: the two must have the same size"
        )
