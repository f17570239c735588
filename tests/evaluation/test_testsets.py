"""Which test sets are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from moceir.data.datasets import BENCHMARKS, Pair
from moceir.evaluation.protocol import Benchmark
from moceir.evaluation.testsets import _BSDS300, _GOPRO, _LOL, SETS, coverage

SEQUENCES = [f"{name}/blur/{i:06d}.png" for name, frames in _GOPRO.items() for i in range(frames)]
COMPLETE = {
    "cbsd68-25": [
        [f"{i:04d}.png" for i in range(68)],
        [f"{name}.png" for name in sorted(_BSDS300, reverse=True)[:68]],
    ],
    "kodak24-15": [[f"kodim{i:02d}.png" for i in range(1, 25)]],
    "urban100-50": [
        [f"img_{i:03d}.png" for i in range(1, 101)],
        [f"img_{i:03d}_SRF_4_HR.png" for i in range(1, 101)],
    ],
    "rain100l": [
        [f"rain-{i}.png" for i in range(1, 101)],
        [f"rain-{i:03d}.png" for i in range(1, 101)],
        [f"{i}.png" for i in range(1, 101)],
    ],
    "sots": [[f"{i:04d}_0.{i % 9}_0.08.jpg" for i in range(500)]],
    "gopro": [SEQUENCES, [name.replace("/blur/", "-") for name in SEQUENCES]],
    "lolv1": [[f"{name}.png" for name in _LOL]],
    "cdd11-low_haze": [[f"{i:05d}.png" for i in range(200)]],
}
CASES = [(name, files) for name, sets in COMPLETE.items() for files in sets]


def test_every_benchmark_of_the_literature_is_known() -> None:
    assert {name.partition("-")[0] for name in BENCHMARKS} == set(SETS)
    assert len(_BSDS300) == 100 and sum(_GOPRO.values()) == 1111 and len(_LOL) == 15


@pytest.mark.parametrize(("name", "files"), CASES)
def test_a_complete_set(name: str, files: list[str]) -> None:
    found = coverage(name, files)
    assert (found.of, found.reason) == (len(files), "")
    # Said where not all names are known.
    in_part = name.startswith(("sots", "cdd11")) or files[-1] == "86068.png"
    assert bool(found.unchecked) == in_part


@pytest.mark.parametrize(("name", "files"), CASES)
def test_a_part_of_a_set_and_other_images(name: str, files: list[str]) -> None:
    count = len(files)
    assert coverage(name, files[:-1]).reason == f"{count - 1} of {count} images"
    assert coverage(name, files * 2).reason == f"{2 * count} of {count} images"
    for others in ([*files[:-1], files[0]], [*files[:-1], "holiday.png"]):
        if name.startswith("cdd11") and "holiday.png" in others:
            continue  # its names are not known
        reason = coverage(name, others).reason
        assert reason.startswith(f"{count} images, but their names are not those of the set")


def test_other_folders_are_no_published_set() -> None:
    for name in ("scans/dusty", "scans-25/bad", "cbsd68-x"):
        assert coverage(name, ["1.png"]) == (None, "not a published test set", "")


def test_images_are_named_below_the_folder_that_holds_them_all() -> None:
    def names(*files: str) -> tuple[str, ...]:
        pairs = tuple(Pair(Path("clean.png"), Path(file)) for file in files)
        return Benchmark("gopro", "", "", pairs).names

    assert names("/test/A/blur/1.png", "/test/B/blur/1.png") == ("A/blur/1.png", "B/blur/1.png")
    assert names("rainy/rain-1.png", "rainy/rain-2.png") == ("rain-1.png", "rain-2.png")
    assert names("rainy/rain-1.png") == ("rain-1.png",)
    clean = Benchmark("cbsd68-25", "", "", (Pair(Path("cBSD68/0000.png")),), 25)
    assert clean.names == ("0000.png",)
