"""The rows of the tables on clean pictures."""

from __future__ import annotations

import pytest
import torch

from moceir.data import degradations, synthesis
from moceir.data.kinds import KINDS
from moceir.evaluation.rows import ROWS, parse_row

IMAGE = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))


def test_every_row_can_be_read_and_made() -> None:
    for text in {text for rows in ROWS.values() for text in rows}:
        row = parse_row(text)
        assert row.text == text
        degraded = row.degrade(IMAGE, 3)
        assert degraded.shape == IMAGE.shape and degraded.min() >= 0 and degraded.max() <= 1
        assert torch.equal(degraded, IMAGE) == (text == "clean")


def test_trained_rows_are_those_of_the_synthesis() -> None:
    row = parse_row("low_light, noise@0.5")
    recipe = synthesis.at("low_light,noise", 0.5, [7])
    assert torch.equal(row.degrade(IMAGE, 7), synthesis.degrade(IMAGE[None], recipe)[0])
    assert row.kinds == ("low_light", "noise") and row.source == "synthesis" and row.sigma is None
    assert {f"{k}@{s}" for k in KINDS for s in synthesis.STRENGTHS} < set(ROWS["synthesis"])


def test_simple_rows_are_those_of_the_card() -> None:
    row = parse_row("haze:beta=2,noise")
    made = degradations.degrade(IMAGE[None], degradations.parse("haze:beta=2,noise"), 7)[0]
    assert torch.equal(row.degrade(IMAGE, 7), made)
    assert row.kinds == ("haze", "noise") and row.source == "degradations"


@pytest.mark.parametrize(
    ("text", "sigma"),
    [("noise", 25), ("noise:sigma=15", 15), ("noise@medium", None), ("haze,noise", None)],
)
def test_only_plain_noise_has_a_sigma(text: str, sigma: float | None) -> None:
    assert parse_row(text).sigma == sigma


def test_turned_haze_comes_from_all_sides() -> None:
    even = torch.full((3, 40, 56), 0.1)
    row = parse_row("turned:haze:beta=3")
    assert row.kinds == ("haze",)
    quarters = []
    for number in range(4):
        hazy = row.degrade(even, number)[0]
        sides = [hazy[0].mean(), hazy[:, 0].mean(), hazy[-1].mean(), hazy[:, -1].mean()]
        quarters.append(int(torch.stack(sides).argmax()))
    assert sorted(quarters) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fog", "unknown degradation 'fog'"),
        ("fog@medium", "unknown degradation 'fog'"),
        ("haze@much", "haze@much: the strength must be slight, medium, strong or a number"),
        ("haze@2", "strength must be slight"),
        ("turned:clean", "unknown degradation 'clean'"),
    ],
)
def test_other_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row(text)
