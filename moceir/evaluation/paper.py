"""Published results, for comparison with ours: PSNR in dB and, where known, SSIM."""

from __future__ import annotations

from dataclasses import dataclass

from moceir.data.datasets import CDD11

Score = tuple[float, float | None]
"""PSNR and SSIM."""


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Args:
        name: of the method.
        parameters: millions, rounded as in its paper; of Restormer and OneRestore, counted from
            their published code (26,126,644, and 5,980,396 without the text embedder).
        scores: one for each column of the setting.
        average: as printed, over the columns.
    """

    name: str
    parameters: float
    scores: tuple[Score, ...]
    average: Score


@dataclass(frozen=True)
class Setting:
    """A table: benchmarks in the order of its columns, with short headings."""

    title: str
    columns: dict[str, str]
    methods: tuple[Method, ...]


def _scores(text: str) -> tuple[Score, ...]:
    """``27.94/.962 26.54`` to pairs."""
    parts = [score.partition("/") for score in text.split()]
    return tuple((float(p), float(s) if s else None) for p, _, s in parts)


def _method(name: str, parameters: float, text: str) -> Method:
    *scores, average = _scores(text)
    return Method(name, parameters, tuple(scores), average)


SETTINGS = {
    "aio3": Setting(
        "AIO-3: haze, rain, noise",
        {
            "sots": "SOTS",
            "rain100l": "Rain100L",
            "cbsd68-15": "CBSD68 15",
            "cbsd68-25": "CBSD68 25",
            "cbsd68-50": "CBSD68 50",
        },
        (
            _method(
                "AirNet", 9, "27.94/.962 34.90/.967 33.92/.933 31.26/.888 28.00/.797 31.20/.910"
            ),
            _method(
                "PromptIR", 36, "30.58/.974 36.37/.972 33.98/.933 31.31/.888 28.06/.799 32.06/.913"
            ),
            _method(
                "InstructIR-3D",
                16,
                "30.22/.959 37.98/.978 34.15/.933 31.52/.890 28.30/.804 32.43/.913",
            ),
            _method(
                "AdaIR", 29, "31.06/.980 38.64/.983 34.12/.935 31.45/.892 28.19/.802 32.69/.918"
            ),
            _method(
                "MoCE-IR-S", 11, "30.94/.979 38.22/.983 34.08/.933 31.42/.888 28.16/.798 32.57/.916"
            ),
            _method(
                "MoCE-IR", 25, "31.34/.979 38.57/.984 34.11/.932 31.45/.888 28.18/.800 32.73/.917"
            ),
        ),
    ),
    "aio5": Setting(
        "AIO-5: haze, rain, noise, blur, low light",
        {
            "sots": "SOTS",
            "rain100l": "Rain100L",
            "cbsd68-25": "CBSD68 25",
            "gopro": "GoPro",
            "lolv1": "LOL-v1",
        },
        (
            _method(
                "AirNet", 9, "21.04/.884 32.98/.951 30.91/.882 24.35/.781 18.18/.735 25.49/.847"
            ),
            _method(
                "Restormer",
                26,
                "24.09/.927 34.81/.962 31.49/.884 27.22/.829 20.41/.806 27.60/.881",
            ),
            _method("PromptIR", 36, "26.54 36.37 31.47 28.71 22.68 29.15/.904"),
            _method(
                "InstructIR-5D",
                16,
                "27.10/.956 36.84/.973 31.40/.873 29.40/.886 23.00/.836 29.55/.908",
            ),
            _method(
                "MoCE-IR-S", 11, "31.33/.978 37.21/.978 31.25/.884 28.90/.877 21.68/.851 30.08/.913"
            ),
            _method(
                "MoCE-IR", 25, "30.48/.974 38.04/.982 31.34/.887 30.05/.899 23.00/.852 30.58/.919"
            ),
        ),
    ),
    "cdd11": Setting(
        "CDD11: composed degradations (rows quoted by a later paper)",
        {f"cdd11-{kind}": "".join(part[0].upper() for part in kind.split("_")) for kind in CDD11},
        (
            _method(
                "AirNet",
                9,
                "24.83 24.21 26.55 26.79 23.23 22.82 23.29 22.21 23.29 21.80 22.24 23.75/.814",
            ),
            _method(
                "PromptIR",
                36,
                "26.32 26.10 31.56 31.53 24.49 25.05 24.51 24.54 23.70 23.74 23.33 25.90/.850",
            ),
            _method(
                "OneRestore",
                6,
                "26.48 32.52 33.40 34.31 25.79 25.58 25.19 29.99 30.21 24.78 24.90 28.47/.878",
            ),
            _method(
                "MoCE-IR-S",
                11,
                "27.26 32.66 34.31 35.91 26.24 26.25 26.04 29.93 30.19 25.41 25.39 29.05/.881",
            ),
        ),
    ),
}
"""The three settings of the paper."""
