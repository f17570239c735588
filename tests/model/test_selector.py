"""The network that tells degradations apart."""

from __future__ import annotations

import pytest
import torch

from moceir.data.kinds import KINDS
from moceir.inference.selection import load_selector
from moceir.model.selector import DETAIL, LIGHT, Selector
from moceir.model.tone import Tone, fit_tone


@pytest.fixture(scope="module")
def selector() -> Selector:
    return load_selector(torch.device("cpu"))


def pair(sides: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, Tone]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, *sides, generator=generator)
    restored = (image + 0.05 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    return image, restored, fit_tone(image, restored)


def test_the_kinds_are_of_light_or_of_detail() -> None:
    assert sorted((*LIGHT, *DETAIL)) == sorted(KINDS)


@pytest.mark.parametrize("sides", [(16, 16), (48, 80)])
def test_shapes(selector: Selector, sides: tuple[int, int]) -> None:
    image, restored, tone = pair(sides)
    levels = selector.features(image, restored)
    assert [x.shape[2:] for x in levels] == [(sides[0] // n, sides[1] // n) for n in (2, 4, 8, 16)]
    change = selector(levels, restored - image, torch.eye(len(DETAIL))[:2])
    assert change.shape == image.shape
    assert selector.classify(selector.statistics(levels, image, tone)).shape == (2, len(KINDS))


def test_statistics_of_a_whole_is_the_mean_of_its_parts(selector: Selector) -> None:
    """On equal parts, so that borders are the same."""
    image, restored, tone = pair((32, 48))
    one = selector.statistics(selector.features(image, restored), image, tone)
    doubled = [torch.cat((x, x.flip(0))) for x in (image, restored)]
    levels = selector.features(*doubled)
    both = selector.statistics(levels, doubled[0], Tone(*(torch.cat((x, x.flip(0))) for x in tone)))
    assert torch.allclose(both[:2] + both[2:], one + one.flip(0), atol=1e-4)


def test_what_is_wanted_makes_a_difference(selector: Selector) -> None:
    image, restored, _ = pair((64, 64))
    levels = selector.features(image, restored)
    changes = [
        selector(levels, restored - image, wanted.expand(2, -1))
        for wanted in (*torch.eye(len(DETAIL)), torch.zeros(len(DETAIL)))
    ]
    noise = DETAIL.index("noise")
    for i, change in enumerate(changes):
        # The change is noise: who wants none of it gets less than who wants it.
        assert i == noise or change.abs().mean() < 0.5 * changes[noise].abs().mean()
