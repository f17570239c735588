"""Training in slices: what is kept, how large it is, and that it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moceir.config import preset
from moceir.errors import CheckpointError, ConfigError
from moceir.model import MoCEIR
from moceir.training.checkpoint import WholeCheckpointIO
from moceir.training.slices import LIMIT, WEIGHTS, pack, run_slice, unpack
from moceir.weights import load_weights
from tests.evaluation.trees import published
from tests.training.test_mixture import arguments


def checkpoint(model: torch.nn.Module) -> dict:
    """What Lightning keeps of a network under AdamW."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for i, p in enumerate(model.parameters()):
        gradient = torch.randn(p.shape, generator=generator) * 10 ** (-(i % 6))
        state[i] = {
            "step": torch.tensor(7.0),
            "exp_avg": 0.1 * gradient,
            "exp_avg_sq": 0.001 * gradient.square(),
        }
    weights = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-3}]}
    return {
        "state_dict": weights,
        "current_model_state": weights,
        "optimizer_states": [optimizer],
        "global_step": 7,
    }


def test_the_state_of_moce_ir_s_is_small(tmp_path: Path) -> None:
    full = checkpoint(MoCEIR(preset("moce_ir_s")))
    WholeCheckpointIO().save_checkpoint(pack(full), tmp_path / "state")
    assert (tmp_path / "state").stat().st_size <= LIMIT
    again = unpack(WholeCheckpointIO().load_checkpoint(tmp_path / "state"))
    assert again["global_step"] == 7
    for part in WEIGHTS:
        for key, tensor in again[part].items():
            torch.testing.assert_close(tensor, full[part][key], rtol=2**-11, atol=1e-7)
    for i, moments in again["optimizer_states"][0]["state"].items():
        before = full["optimizer_states"][0]["state"][i]
        assert moments["step"] == 7 and not moments["exp_avg"].any()
        # Half a step of the scale, which spans some 40 octaves here.
        torch.testing.assert_close(moments["exp_avg_sq"], before["exp_avg_sq"], rtol=0.1, atol=0)


def test_zeros_stay_zeros() -> None:
    for values in (torch.zeros(3), torch.tensor([0.0, 2.0]), torch.tensor([1e-20, 0.0, 1.0])):
        state = {"state": {0: {"exp_avg_sq": values}}}
        packed = pack({**{part: {} for part in WEIGHTS}, "optimizer_states": [state]})
        again = unpack(packed)["optimizer_states"][0]["state"][0]["exp_avg_sq"]
        torch.testing.assert_close(again, values, rtol=1e-6, atol=0)


def test_slices_train_to_the_end(tmp_path: Path) -> None:
    """Each on a machine of its own: the run folder is new every time."""
    root, state = published(tmp_path / "sets"), tmp_path / "state"
    words = ["--max_minutes", "0", "--steps", "3"]
    for number, name in enumerate(("last.ckpt", "last.ckpt", "model.safetensors"), start=1):
        result = run_slice(state, arguments(tmp_path / f"run{number}", root, *words))
        assert result == tmp_path / f"run{number}" / name
        assert WholeCheckpointIO().load_checkpoint(state)["global_step"] == number
    assert load_weights(result).config.dim == 8
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match="bytes and may have 10"):
        run_slice(state, arguments(tmp_path / "run4", root, *words), limit=10)
    assert state.read_bytes() == before
    with pytest.raises(ConfigError, match="max_minutes"):
        run_slice(state, arguments(tmp_path / "run5", root))
    state.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="state: not a readable checkpoint"):
        run_slice(state, arguments(tmp_path / "run6", root, *words))
