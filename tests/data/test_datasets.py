"""The layouts of published data sets, and the errors for incomplete ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from moceir.data.datasets import BENCHMARKS, TRAINING, Pair, pair_folders, pairs_of
from moceir.errors import PictureError
from tests.evaluation.trees import picture, promptir, published


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("table", [TRAINING, BENCHMARKS])
def test_every_set_is_found_in_the_published_layout(root: Path, table: dict) -> None:
    for name, spec in table.items():
        if name == "denoise":  # AirNet and PromptIR put two sets into one folder
            continue
        pairs = pairs_of(spec, root)
        assert pairs
        synthetic = spec.layouts[0].degraded is None
        assert all((pair.degraded is None) == synthetic for pair in pairs), name


@pytest.mark.parametrize("prefix", ["", "data"])
def test_sets_are_found_in_the_layout_of_promptir(tmp_path: Path, prefix: str) -> None:
    promptir(tmp_path / prefix)
    found = [n for n in TRAINING if not n.startswith("cdd11") and n not in ("wed", "bsd400")]
    for name in found:
        assert pairs_of(TRAINING[name], tmp_path), name
    for name in (n for n in BENCHMARKS if not n.startswith("cdd11")):
        assert pairs_of(BENCHMARKS[name], tmp_path), name


def test_names_lead_from_degraded_to_clean(root: Path) -> None:
    def names(key: str) -> list[tuple[str, str]]:
        pairs = pairs_of(TRAINING[key], root)
        return [(p.degraded.name, p.clean.name) for p in pairs if p.degraded]

    assert names("raintrainl") == [("rain-1.png", "norain-1.png"), ("rain-2.png", "norain-2.png")]
    # The parts count, the clean pictures beside them do not.
    assert names("ots") == [
        ("0025_0.8_0.04.jpg", "0025.jpg"),
        ("0025_0.8_0.06.jpg", "0025.jpg"),
        ("3068_1_0.1.jpg", "3068.jpg"),
    ]


def test_a_missing_set_names_every_place(tmp_path: Path) -> None:
    picture(tmp_path / "deraining/Rain100L/rainy/1.png")
    with pytest.raises(PictureError) as error:
        pairs_of(BENCHMARKS["rain100l"], tmp_path)
    message = str(error.value)
    assert message.startswith(f"Rain100L not found in {tmp_path}: looked for ")
    # Of the published layout only the clean half is missing.
    assert f"looked for {tmp_path / 'deraining/Rain100L/gt'}, or " in message
    assert str(tmp_path / "test/derain/Rain100L/input") in message
    with pytest.raises(PictureError, match="no such folder: give the folder that holds"):
        pairs_of(BENCHMARKS["rain100l"], tmp_path / "none")


def test_unpaired_pictures_are_named(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        picture(tmp_path / "low" / f"{name}.png")
    picture(tmp_path / "high" / "1.jpg")
    with pytest.raises(
        PictureError, match=r"low/2\.png: no matching clean.*1 more.*expected 2\.\* in"
    ):
        pair_folders(tmp_path / "low", tmp_path / "high")


def test_pairs_of_any_folders(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "2.png"):
        picture(tmp_path / "bad" / name)
        picture(tmp_path / "good" / name)
    pairs = pair_folders(tmp_path / "bad", tmp_path / "good")
    relative = [
        (p.degraded.relative_to(tmp_path / "bad"), p.clean.relative_to(tmp_path / "good"))
        for p in pairs
        if p.degraded
    ]
    assert [str(d) for d, _ in relative] == ["2.png", "a/1.png", "b/1.png"]
    assert all(d == c for d, c in relative)


def test_empty_sets(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    picture(tmp_path / "good" / "1.png")
    with pytest.raises(PictureError, match="bad: no images in it"):
        pair_folders(tmp_path / "bad", tmp_path / "good")
    with pytest.raises(
        PictureError, match=r"good: given as both .* give two folders, or one folder of seq"
    ):
        pair_folders(tmp_path / "good", tmp_path / "good")
    picture(tmp_path / "good" / "clear" / "1.png")
    with pytest.raises(PictureError, match="bad: no images other than the clean ones"):
        picture(tmp_path / "bad" / "clear" / "1.png")
        pair_folders(tmp_path / "bad", tmp_path / "bad" / "clear")
    assert Pair(tmp_path).degraded is None


def test_gopro_as_its_authors_give_it(tmp_path: Path) -> None:
    root = tmp_path / "deblurring" / "GoPro" / "test"
    for sequence in ("GOPR0384_11_00", "GOPR0410_11_00"):
        for frame in ("000001", "000002"):
            for part in ("blur", "blur_gamma", "sharp"):
                picture(root / sequence / part / f"{frame}.png")
    pairs = pair_folders(root, root)
    assert pairs == pairs_of(BENCHMARKS["gopro"], tmp_path)
    assert len(pairs) == 4
    for pair in pairs:
        assert pair.degraded is not None and pair.degraded.parent.name == "blur"
        assert pair.clean == pair.degraded.parents[1] / "sharp" / pair.degraded.name
    (root / "GOPR0410_11_00" / "sharp" / "000002.png").unlink()
    with pytest.raises(
        PictureError, match=r"blur/000002\.png: no matching clean.*sharp/000002\.\*"
    ):
        pair_folders(root, root)
