"""Files of a version that had other names for parameters: they load, and give the same outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from moceir.config import MoCEIRConfig, preset
from moceir.model import MoCEIR, load_model, load_published, load_weights
from moceir.training.config import DataConfig, OptimizerConfig, TrainingConfig
from moceir.training.module import RestorationModule
from moceir.training.packed import pack, unpack
from moceir.training.step import TrainingStep
from tests.published_weights import GOLDEN, filled, golden
from tests.training.test_step import batch

Tensors = dict[str, Tensor]

EARLIER: dict[str, Any] = json.loads((GOLDEN / "earlier_version.json").read_text())
FORMER = {"depth_schedule": "lin", "stage_depth": [2]}
CONFIG = preset("compact").replace(**EARLIER["model"])


def earlier_tensors() -> Tensors:
    return filled(EARLIER["shapes"])


def earlier_checkpoint(optimizer: str) -> dict[str, Any]:
    """``last.ckpt`` as that version wrote it."""
    weights = {f"model.{name}": tensor for name, tensor in earlier_tensors().items()}
    names = list(EARLIER["shapes"])
    moments = {}
    for number, position in enumerate(EARLIER[optimizer]):
        name = names[position]
        shape = EARLIER["shapes"][name]
        by_muon = optimizer == "muon" and len(shape) in (2, 4) and min(shape[:2]) >= 8
        moments[number] = {"step": torch.tensor(9.0)}
        for kind in ["momentum"] if by_muon else ["exp_avg", "exp_avg_sq"]:
            value = filled({f"{kind} {name}": shape})[f"{kind} {name}"]
            second = kind == "exp_avg_sq"
            moments[number][kind] = 1e-6 * (value.square() + 1e-2) if second else 1e-3 * value
    return {
        "global_step": 3,
        "state_dict": weights,
        "current_model_state": weights,
        "optimizer_states": [{"state": moments, "param_groups": []}],
        "loss_means": {},
        "training_config": {"preset": "compact", "model": EARLIER["model"]},
        "usage": {"counts": torch.zeros(1, 1, 2, dtype=torch.int64), "macs": 0},
    }


def check_restored(model: MoCEIR, expected: str = "restored") -> None:
    with torch.no_grad():
        restored = model.eval()(batch(0).degraded[:1])
    numbers = golden("earlier_version.npz")[expected]
    assert (restored - numbers).abs().max() <= 1e-4 * numbers.abs().max()


def test_the_golden_file_has_what_is_no_more() -> None:
    own = MoCEIR(CONFIG).state_dict()
    assert len(own) == len(EARLIER["shapes"]) and own.keys() != EARLIER["shapes"].keys()
    assert FORMER.items() <= EARLIER["model"].items()


def test_weights_files(tmp_path: Path) -> None:
    config = CONFIG.to_dict() | FORMER
    path = tmp_path / "model.safetensors"
    save_file(earlier_tensors(), path, {"format": "pt", "moceir.config": json.dumps(config)})
    (tmp_path / "config.json").write_text(json.dumps(config))  # of save_pretrained
    for model in (load_weights(path), load_model(tmp_path), MoCEIR.from_pretrained(tmp_path)):
        assert model.config == CONFIG
        check_restored(model)


def test_checkpoints(tmp_path: Path) -> None:
    torch.save(earlier_checkpoint("adamw"), tmp_path / "last.ckpt")
    check_restored(load_model(tmp_path / "last.ckpt"))
    check_restored(load_published({f"net.{k}": t for k, t in earlier_tensors().items()}, CONFIG))


def test_packed_checkpoints() -> None:
    state = unpack(pack(earlier_checkpoint("adamw")))["state_dict"]
    model = MoCEIR(CONFIG)
    model.load_state_dict({name.removeprefix("model."): t for name, t in state.items()})
    expected = load_published(earlier_tensors(), CONFIG)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_goes_on(optimizer: str) -> None:
    """With the moments of each tensor, which checkpoints number in the order of that version."""
    muon = optimizer == "muon"
    config = TrainingConfig(
        preset="compact",
        model=EARLIER["model"],
        data=DataConfig(batch_size=4, crop=16),
        optimizer=OptimizerConfig(muon=muon, lr=1e-2, warmup_steps=4, ema_decay=0.9),
        steps=30,
        precision="32-true",
    )
    step = TrainingStep(RestorationModule(config))
    step.load_state_dict(earlier_checkpoint(optimizer))
    check_restored(step.average)
    step(3, [batch(3)])
    check_restored(step.model, f"restored_after_{optimizer}")


@pytest.mark.parametrize("former", FORMER)
def test_fields_that_never_changed_a_result(former: str) -> None:
    values = {"dim": 8, former: FORMER[former]}
    assert MoCEIRConfig.from_dict(values) == MoCEIRConfig(dim=8)
    assert former not in MoCEIRConfig.from_dict(values).to_dict()
