"""Random numbers without a state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moceir.data.counter import Draw, levels, normals, states, uniforms, words


def keys(n: int) -> torch.Tensor:
    draw = Draw(5, np.arange(n), 0, np.ones(n))
    return torch.from_numpy(draw.keys(1)[:, 0])


def reference(key: np.ndarray, count: int) -> np.ndarray:
    """``words`` in unsigned arithmetic of 64 bits."""
    low = np.uint64(0xFFFFFFFF)
    first, second = (key.astype(np.int64).astype(np.uint64) & low).T[..., None]
    x = (np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B9) + first) & low
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x21F0AAAD)) & low
    x ^= second
    x ^= x >> np.uint64(15)
    x = (x * np.uint64(0x735A2D97)) & low
    return x ^ (x >> np.uint64(15))


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_words_are_those_of_unsigned_arithmetic(device: str) -> None:
    key = keys(7)
    drawn = words(key.to(device), 5000).cpu().numpy().view(np.uint32)
    assert np.array_equal(drawn, reference(key.numpy(), 5000))


def test_a_row_does_not_depend_on_the_others_nor_on_its_length() -> None:
    key = keys(5)
    whole = words(key, 1001)
    assert torch.equal(words(key[3:4], 400)[0], whole[3, :400])
    assert torch.equal(levels(key, 999), levels(key, 1000)[:, :999])


def test_levels_are_uniform_and_independent() -> None:
    drawn = levels(keys(64), 16384)
    assert drawn.min() >= 0 and drawn.max() <= 65535
    unit = (drawn.double() + 0.5) / 65536
    # Standard errors of the mean of a million: 3e-4; all limits are five of them.
    assert unit.mean().item() == pytest.approx(0.5, abs=1.5e-3)
    assert unit.var().item() == pytest.approx(1 / 12, rel=4e-3)
    counts = torch.bincount(drawn.flatten() >> 8, minlength=256).double()
    expected = drawn.numel() / 256
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi_squared - 255) < 5 * (2 * 255) ** 0.5
    centred = unit - 0.5
    for lag in (1, 2, 64, 128, 8192):
        product = (centred[:, lag:] * centred[:, :-lag]).mean() * 12
        assert abs(product.item()) < 5 / (64 * (16384 - lag)) ** 0.5
    between = torch.corrcoef(unit).triu(1).abs().max().item()
    assert between < 6 / 16384**0.5  # the largest of 2,016


def test_normals_are_normal() -> None:
    drawn = normals(levels(keys(64), 16384)).double()
    assert drawn.mean().item() == pytest.approx(0, abs=5e-3)
    assert drawn.std().item() == pytest.approx(1, abs=4e-3)
    assert (drawn**4).mean().item() == pytest.approx(3, abs=0.06)
    assert 4 < drawn.abs().max().item() < 4.4
    inside = (drawn.abs() < 1).double().mean().item()
    assert inside == pytest.approx(0.6827, abs=3e-3)


def test_uniforms_of_patches_seeds_streams_and_places_differ() -> None:
    drawn = [
        uniforms(states(seed, np.arange(50), stream), 0, 20)
        for seed in (-1, 0, 1, 2**40)
        for stream in (-2, 0, 1)
    ]
    every = np.concatenate([u.ravel() for u in drawn])
    assert len(np.unique(every)) == len(every)
    assert every.min() >= 0 and every.max() < 1
    assert every.mean() == pytest.approx(0.5, abs=5 / (12 * len(every)) ** 0.5)
    assert np.array_equal(uniforms(states(0, np.arange(50)), 5, 3), drawn[4][:, 5:8])


def test_a_draw_takes_other_numbers_every_time() -> None:
    draw = Draw(0, np.arange(2000), 3, np.linspace(0.01, 1, 2000))
    first, second = draw.uniform(2, 4), draw.normal(3, 2)
    assert first.shape == (2000,) and second.shape == (2000, 3, 2)
    assert abs(np.corrcoef(first, second[:, 0, 0])[0, 1]) < 0.12
    assert 2 <= first.min() < 2.01 and 3.99 < first.max() < 4
    assert second.mean() == pytest.approx(0, abs=0.05) and second.std() == pytest.approx(
        1, abs=0.03
    )
    several = draw.log(0.01, 100)
    assert np.median(several) == pytest.approx(1, rel=0.3)
    assert draw.strong(1, 10)[-1] == pytest.approx(10)
    assert 0.25 < draw.happens(0.3).mean() < 0.35
