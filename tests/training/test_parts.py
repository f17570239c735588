"""Schedule, loss and configuration."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from moceir.data.degradations import KINDS
from moceir.errors import ConfigError
from moceir.training.config import DataConfig, OptimizerConfig, TrainingConfig
from moceir.training.loss import KindMeans, restoration_loss
from moceir.training.module import psnr
from moceir.training.optimizer import lr_factor
from moceir.training.options import build, read_yaml


def test_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [lr_factor(step, 10, 100) for step in range(101)]
    assert factors[0] > 0
    assert factors == sorted(factors[:11]) + sorted(factors[11:], reverse=True)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    assert factors[100] == pytest.approx(0)


def test_loss_is_the_weighted_sum() -> None:
    a, b = torch.rand(2, 3, 8, 10), torch.rand(2, 3, 8, 10)
    spectra = torch.fft.rfft2(a.double()) - torch.fft.rfft2(b.double())
    spectrum = (spectra.real.abs().mean() + spectra.imag.abs().mean()) / 2
    expected = (a - b).abs().mean() + 0.1 * spectrum + 0.01 * 3
    loss = restoration_loss(a, b, torch.tensor(3.0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = restoration_loss(a, a, torch.tensor(0.0))
    assert nothing.item() == 0


@pytest.mark.parametrize(
    ("kind", "slight", "heavy"),
    [("log_l1", 0.02 + 0.005, 0.4 + 0.005), ("log_l2", 0.02**2 + 1e-5, 0.4**2 + 1e-5)],
)
def test_the_logarithm_counts_relative_improvement(kind: str, slight: float, heavy: float) -> None:
    clean = torch.rand(2, 3, 8, 8)
    offset = torch.tensor([0.02, 0.4])[:, None, None, None]
    none = torch.tensor(0.0)
    loss = restoration_loss(clean + offset, clean, none, spectrum_weight=0, kind=kind)
    expected = 0.1 * (math.log(slight) + math.log(heavy)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # An image without any error has a finite gradient.
    restored = clean.clone().requires_grad_()
    restoration_loss(restored, clean, none, kind=kind).backward()
    assert restored.grad is not None
    assert torch.isfinite(restored.grad).all()


def test_relative_losses_count_each_kind_alike() -> None:
    """Over what is expected of such damage; a kind that has not come leaves its means alone."""
    means = KindMeans(3, torch.device("cpu"))
    losses, labels = torch.tensor([0.1, 0.3, 0.002]), torch.tensor([0, 0, 2])
    damage = torch.tensor([0.05, 0.45, 0.004])
    found = means.relative(losses, damage, labels)
    torch.testing.assert_close(means.values, torch.tensor([[0.2, 0, 0.002], [0.25, 0, 0.004]]))
    usual = torch.tensor([0.2 * math.sqrt(0.2), 0.2 * math.sqrt(1.8), 0.002])
    torch.testing.assert_close(found, 0.1 * losses / (usual + 0.01))
    clean = means.relative(torch.tensor([0.1]), torch.tensor([0.0]), torch.tensor([0]))
    assert clean.item() == pytest.approx(1)
    torch.testing.assert_close(means.values, torch.tensor([[0.198, 0, 0.002], [0.245, 0, 0.004]]))


def test_squares_have_the_slope_of_l1_at_a_tenth() -> None:
    clean = torch.zeros(1, 3, 8, 8)
    restored = torch.full_like(clean, 0.1).requires_grad_()
    none = torch.tensor(0.0)
    slopes = []
    for kind in ("l1", "l2"):
        loss = restoration_loss(restored, clean, none, spectrum_weight=0, kind=kind)
        slopes.append(torch.autograd.grad(loss, restored)[0])
    torch.testing.assert_close(*slopes)


def test_taught_images_have_a_gradient_that_fades() -> None:
    clean = torch.zeros(3, 3, 8, 8)
    offset = torch.tensor([0.5, 0.1, 0.01])[:, None, None, None]
    restored = (clean + offset).requires_grad_()
    taught = torch.tensor([0.0, 3, 3])
    loss = restoration_loss(restored, clean, torch.tensor(0.0), 0, taught=taught)
    # Huber: the difference less 0.01, or its square over 0.04.
    assert loss.item() == pytest.approx((0.5 + 3 * 0.09 + 3 * 0.0025) / 3, rel=1e-5)
    slopes = torch.autograd.grad(loss, restored)[0].flatten(1).sum(1)
    torch.testing.assert_close(slopes, torch.tensor([1.0, 3.0, 1.5]) / 3)


def test_psnr() -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    restored = clean + torch.tensor([0.1, 0.01])[:, None, None, None]
    torch.testing.assert_close(psnr(restored, clean), torch.tensor([20.0, 40.0]))
    # What lies outside [0, 1] counts as it would be shown.
    assert psnr(torch.full((1, 3, 4, 4), 1.7), torch.ones(1, 3, 4, 4)).item() == pytest.approx(100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingConfig(preset="compakt"), "unknown preset"),
        (lambda: TrainingConfig(model={"dimm": 3}), "did you mean 'dim'"),
        (lambda: TrainingConfig(precision="fp16"), "precision.*bf16-mixed"),
        (lambda: TrainingConfig(steps=0), "steps is 0"),
        (lambda: DataConfig(kinds=["rian"]), r"data\.kinds.*rain"),
        (lambda: DataConfig(kinds=[]), r"data\.kinds"),
        (lambda: DataConfig(crop=4), r"data\.crop is 4"),
        (lambda: OptimizerConfig(ema_decay=1.0), r"optimizer\.ema_decay"),
        (lambda: OptimizerConfig(lr=-1), r"optimizer\.lr is -1"),
    ],
)
def test_bad_values_are_named(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_shipped_configurations_are_valid() -> None:
    folder = Path(__file__).parents[2] / "configs"
    for path in sorted(folder.glob("*.yaml")):
        config = build(read_yaml(path))
        assert set(config.data.kinds) <= set(KINDS)
        assert math.isfinite(config.optimizer.lr)
