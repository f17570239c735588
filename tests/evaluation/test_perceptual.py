"""Measures with learned weights, with a stand-in for pyiqa, whose weights are not here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from moceir.evaluation.perceptual import NO_REFERENCE, find_lpips, find_no_reference

CPU = torch.device("cpu")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "pyiqa").mkdir()
    return tmp_path / "pyiqa"


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pyiqa whose measures are the mean of an image; returns the names that it is asked for."""
    made: list[str] = []

    def create_metric(name: str, device: torch.device) -> Any:
        made.append(name)
        return lambda images: images.mean(dim=(1, 2, 3))

    module = ModuleType("pyiqa")
    module.create_metric = create_metric  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return made


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    reasons = find_no_reference(CPU)
    assert list(reasons) == list(NO_REFERENCE)
    assert all("pyiqa" in str(reason) for reason in reasons.values())


def test_a_package_that_does_not_suit_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name in ("pyiqa", "torchvision"):
                raise RuntimeError("operator torchvision::nms does not exist\nmore")

    for name in ("pyiqa", "torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    reason = "operator torchvision::nms does not exist"
    assert find_lpips(CPU) == reason
    assert set(find_no_reference(CPU).values()) == {reason}


def test_nothing_is_made_without_its_weights(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyiqa would download them."""
    made = install(monkeypatch)
    (hub / NO_REFERENCE["brisque"]).touch()
    found = find_no_reference(CPU)
    assert made == ["brisque"]
    for name in ("niqe", "musiq"):
        assert found[name] == f"its weights are missing ({hub / NO_REFERENCE[name]})"
    measure = found["brisque"]
    assert not isinstance(measure, str) and measure(torch.full((3, 20, 30), 0.25)) == 0.25


def test_niqe_needs_two_blocks(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    (hub / NO_REFERENCE["niqe"]).touch()
    measure = find_no_reference(CPU)["niqe"]
    assert not isinstance(measure, str)
    assert measure(torch.ones(3, 191, 95)) is None and measure(torch.ones(3, 191, 191)) is None
    assert measure(torch.ones(3, 192, 96)) == 1
