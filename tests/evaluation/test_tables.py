"""The tables of an evaluation: the papers' rows stand only beside what is comparable."""

from __future__ import annotations

from typing import Any

import pytest

from moceir.evaluation.paper import SETTINGS
from moceir.evaluation.run import Evaluation, Measurement, as_csv, as_markdown
from moceir.evaluation.tables import tables
from tests.evaluation.test_testsets import COMPLETE

ABOUT: dict[str, Any] = {
    "model": "mine", "protocol": "published", "seed": 3, "tile": 0, "moceir": "1", "torch": "2",
    "device": "cpu, threads: 1", "precision": "float32", "parameters": 1_166_030, "network": {},
    "lpips": "not measured, torchvision is not installed", "niqe": "pyiqa",
    "brisque": "not measured, its weights are missing (/nowhere)", "musiq": "pyiqa",
}  # fmt: skip


def evaluation(*files: tuple[str, list[str]], **about: Any) -> Evaluation:
    rows = [
        Measurement(
            benchmark, file, 32, 32, 20.0, 0.5, 30.0, 0.9, None, 0.1, 0, (1,),
            {"niqe": (6.0, 4.0), "musiq": (None, None)},
        )
        for benchmark, names in files
        for file in names
    ]  # fmt: skip
    return Evaluation(rows, {**ABOUT, **about})


def files(setting: str) -> list[tuple[str, list[str]]]:
    complete = {name.partition("-")[0]: sets[0] for name, sets in COMPLETE.items()}
    return [(column, complete[column.partition("-")[0]]) for column in SETTINGS[setting].columns]


@pytest.mark.parametrize("setting", ["aio3", "aio5", "cdd11"])
def test_complete_sets_stand_beside_the_published_rows(setting: str) -> None:
    found = {table.title: table for table in tables(evaluation(*files(setting)))}
    table = found[f"{SETTINGS[setting].title}: published and ours"]
    assert table.head == ["method", "parameters", *SETTINGS[setting].columns.values(), "average"]
    assert [row[0] for row in table.body] == [
        *(method.name for method in SETTINGS[setting].methods),
        "this network",
    ]
    assert all(cell not in ("", "-") for row in table.body for cell in row)
    assert table.body[-1][1] == "1.17M"
    assert table.body[-1][2].startswith("30.00 / 0.900 (") and table.body[-1][-1] == "30.00 / 0.900"
    assert not table.notes
    assert "cropped about the middle to multiples of 16" in table.caption
    assert "images restored each as a whole, in float32 on cpu" in table.caption


def test_published_numbers_are_left_out_beside_a_part_of_a_set() -> None:
    sets = files("aio3")
    sets[2] = (sets[2][0], sets[2][1][:4])  # CBSD68 15
    table = tables(evaluation(*sets[:4]))[1]
    assert table.head == [
        "method", "parameters", "SOTS", "Rain100L", "CBSD68 15", "CBSD68 25",
    ]  # fmt: skip
    *published, ours = table.body
    assert len(published) == len(SETTINGS["aio3"].methods)
    for row, method in zip(published, SETTINGS["aio3"].methods, strict=True):
        assert row[2].startswith(f"{method.scores[0][0]:.2f}") and row[4] == "-"
    assert ours[4] == "30.00 / 0.900 (4 of 68 images)"
    assert ours[5] == "30.00 / 0.900 (68 images)"
    assert table.notes == [
        "CBSD68 15: 4 of 68 images. Published numbers are means over the whole set, so they are "
        "left out.",
        "Not measured: CBSD68 50.",
    ]


def test_other_images_are_not_a_published_set() -> None:
    table = tables(evaluation(("lolv1", [f"photo{i}.png" for i in range(15)])))[1]
    assert table.title == "AIO-5: haze, rain, noise, blur, low light: ours"
    assert [row[0] for row in table.body] == ["this network"]
    (note,) = (note for note in table.notes if note.startswith("LOL-v1"))
    assert "their names are not those of the set (those of eval15: 1, 22, 23" in note


def test_means_say_what_was_measured_and_what_was_not() -> None:
    pair = ("scans/dusty", ["a.png", "b.png"])
    table = tables(evaluation(("cdd11-low", COMPLETE["cdd11-low_haze"][0]), pair))[0]
    assert table.head == [
        "benchmark", "images", "PSNR input", "PSNR", "SSIM input", "SSIM", "NIQE input", "NIQE",
        "seconds, median", "megapixels/s",
    ]  # fmt: skip
    assert [row[1] for row in table.body] == ["200", "2"]
    assert table.body[0][6:8] == ["6.00", "4.00"]
    assert table.notes == [
        "LPIPS: not measured, torchvision is not installed.",
        "BRISQUE: not measured, its weights are missing (/nowhere).",
        "cdd11-low: the names are not known here: only their number was checked.",
    ]
    for text in ("protocol published", "noise seed 3", "Gaussian window, 11 x 11"):
        assert text in table.caption
    other = tables(evaluation(pair, protocol="promptir", tile=512))[0]
    assert "uniform window, 7 x 7" in other.caption and "in tiles of 512" in other.caption


def test_every_table_has_its_caption_in_markdown() -> None:
    found = evaluation(*files("aio5"))
    text = as_markdown(found)
    for table in tables(found):
        assert f"## {table.title}\n\n{table.caption}\n\n| {table.head[0]} |" in text
    assert (
        as_csv(found.rows)
        .splitlines()[0]
        .endswith("experts,niqe_input,niqe,brisque_input,brisque,musiq_input,musiq")
    )
    assert as_csv(found.rows).splitlines()[1].endswith(",1,6.000000,4.000000,,,,")
