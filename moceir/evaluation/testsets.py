"""The published test sets: how many images each has, and how they are named.

Published numbers are means over a whole set. Those over a part of it, or over other images, are not
comparable with them, and no table puts them side by side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# The test images of BSDS300, of which CBSD68 has 68.
_BSDS300 = frozenset({
    3096, 8023, 12084, 14037, 16077, 19021, 21077, 24077, 33039, 37073, 38082, 38092, 41033,
    41069, 42012, 42049, 43074, 45096, 54082, 55073, 58060, 62096, 65033, 66053, 69015, 69020,
    69040, 76053, 78004, 85048, 86000, 86016, 86068, 87046, 89072, 97033, 101085, 101087, 102061,
    103070, 105025, 106024, 108005, 108070, 108082, 109053, 119082, 123074, 126007, 130026,
    134035, 143090, 145086, 147091, 148026, 148089, 156065, 157055, 159008, 160068, 163085,
    167062, 167083, 170057, 175032, 175043, 182053, 189080, 196073, 197017, 208001, 210088,
    216081, 219090, 220075, 223061, 227092, 229036, 236037, 241004, 241048, 253027, 253055,
    260058, 271035, 285079, 291000, 295087, 296007, 296059, 299086, 300091, 302008, 304034,
    304074, 306005, 351093, 361010, 376043, 385039,
})  # fmt: skip

# Frames of the test sequences of GoPro.
_GOPRO = {
    **dict.fromkeys(("GOPR0384_11_00", "GOPR0384_11_05", "GOPR0385_11_01", "GOPR0396_11_00"), 100),
    **dict.fromkeys(("GOPR0854_11_00", "GOPR0868_11_00", "GOPR0869_11_00", "GOPR0871_11_00"), 100),
    "GOPR0410_11_00": 134,
    "GOPR0862_11_00": 77,
    "GOPR0881_11_01": 100,
}

# The images of LOL-v1's eval15.
_LOL = {1, 22, 23, 55, 79, 111, 146, 179, 493, 547, 665, 669, 748, 778, 780}

Names = Sequence[str]
Check = Callable[[Names], "str | None"]


@dataclass(frozen=True)
class PublishedSet:
    """A published test set.

    Args:
        count: of its images.
        naming: how they are named, for messages.
        check: of names without suffixes, all different and ``count`` many: None if they are not
            those of the set, else what about them could not be checked, for messages.
    """

    count: int
    naming: str
    check: Check


class Coverage(NamedTuple):
    """How much of a published test set was measured."""

    of: int | None
    """Images of the set; None: it is none that is known here."""
    reason: str
    """Why the result is not comparable with published ones; "": it is."""
    unchecked: str = ""
    """What about a complete set could not be checked."""


def _numbers(pattern: str, names: Names) -> set[int]:
    """Of the names that match."""
    found = [re.fullmatch(pattern, name) for name in names]
    return {int(match[1]) for match in found if match}


def _numbered(pattern: str, expected: set[int]) -> Check:
    """The names must match and have these numbers."""
    return lambda names: "" if _numbers(pattern, names) == expected else None


def _check_cbsd68(names: Names) -> str | None:
    if _numbers(r"(\d{4})", names) == set(range(68)):
        return ""
    if len(_numbers(r"(\d+)", names) & _BSDS300) == len(names):
        return "they are test images of BSDS300, but which 68 of its 100 was not checked"
    return None


def _check_gopro(names: Names) -> str | None:
    found = Counter(re.split(r"[/-]", name)[0] for name in names)
    return "" if found == _GOPRO else None


def _check_sots(names: Names) -> str | None:
    if all(re.fullmatch(r"\d{4}_[\d.]+_[\d.]+", name) for name in names):
        return "of the names, only the form was checked"
    return None


SETS = {
    "cbsd68": PublishedSet(68, "0000 to 0067, or their numbers in BSDS300", _check_cbsd68),
    "kodak24": PublishedSet(
        24, "kodim01 to kodim24", _numbered(r"(?:kodim)?(\d+)", set(range(1, 25)))
    ),
    "urban100": PublishedSet(
        100,
        "img_001 to img_100",
        _numbered(r"img_?(\d+)(?:_SRF_\d+_HR)?", set(range(1, 101))),
    ),
    "rain100l": PublishedSet(
        100,
        "rain-1 to rain-100, or 1 to 100",
        _numbered(r"(?:(?:no)?rain-)?(\d+)", set(range(1, 101))),
    ),
    "sots": PublishedSet(500, "such as 0001_0.8_0.2: scene, airlight and beta", _check_sots),
    "gopro": PublishedSet(
        1111, "GOPR0384_11_00/blur/000001 or GOPR0384_11_00-000001, 11 sequences", _check_gopro
    ),
    "lolv1": PublishedSet(15, "those of eval15: 1, 22, 23, 55, ... 780", _numbered(r"(\d+)", _LOL)),
    "cdd11": PublishedSet(
        200, "", lambda names: "the names are not known here: only their number was checked"
    ),
}
"""By the names of benchmarks, without sigma and without the folder of CDD11."""


def coverage(benchmark: str, files: Names) -> Coverage:
    """How much of its published test set a benchmark has measured.

    Args:
        benchmark: its name, such as ``cbsd68-25``, or the folder of a pair.
        files: names of the images that were measured, as ``Benchmark.names``.
    """
    base, _, suffix = benchmark.partition("-")
    known = SETS.get(base if base == "cdd11" or suffix.isdigit() else benchmark)
    if known is None:
        return Coverage(None, "not a published test set")
    names = [file.rpartition(".")[0] for file in files]
    if len(names) != known.count:
        return Coverage(known.count, f"{len(names)} of {known.count} images")
    unchecked = known.check(names) if len(set(names)) == known.count else None
    if unchecked is None:
        expected = f" ({known.naming})" if known.naming else ""
        reason = f"{known.count} images, but their names are not those of the set{expected}"
        return Coverage(known.count, reason)
    return Coverage(known.count, "", unchecked)
