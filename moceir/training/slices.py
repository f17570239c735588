"""Training in slices on machines that keep nothing: all state in one small file between them.

    python -m moceir.training.slices STATE --config configs/moce_ir_s.yaml --max_minutes 9

A slice takes up the run from STATE, if it is there, trains until ``max_minutes`` are over, and
replaces STATE. The same command, with STATE carried from machine to machine, trains a network to
the end. STATE is a checkpoint made small: weights and averaged weights in float16, AdamW's second
moments in 8 bits on a logarithmic scale; momenta are left out and build up again within some tens
of steps. So a slice does not continue bit by bit as ``last.ckpt`` does, which is used instead
where the run folder still has it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moceir.errors import CheckpointError, ConfigError
from moceir.training.checkpoint import WholeCheckpointIO
from moceir.training.run import parse, train

LIMIT = 60_000_000
"""Bytes that STATE may have."""

WEIGHTS = ("state_dict", "current_model_state")
"""The averaged weights and those that are trained, as Lightning's averaging calls them."""


def pack(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A training checkpoint made small; see the module."""
    packed = dict(checkpoint)
    for part in WEIGHTS:
        packed[part] = {
            key: tensor.half() if tensor.is_floating_point() else tensor
            for key, tensor in checkpoint[part].items()
        }
    packed["optimizer_states"] = [
        {**optimizer, "state": {i: _pack_moments(s) for i, s in optimizer["state"].items()}}
        for optimizer in checkpoint["optimizer_states"]
    ]
    return packed


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """The opposite of ``pack``, up to what it leaves out."""
    checkpoint = dict(packed)
    for part in WEIGHTS:
        checkpoint[part] = {
            key: tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in packed[part].items()
        }
    checkpoint["optimizer_states"] = [
        {
            **optimizer,
            "state": {
                i: {name: _unpack_moment(value) for name, value in s.items()}
                for i, s in optimizer["state"].items()
            },
        }
        for optimizer in packed["optimizer_states"]
    ]
    return checkpoint


def _pack_moments(state: dict[str, Any]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            packed[name] = value
        elif name == "exp_avg_sq":
            packed[name] = _pack_positive(value)
        else:
            packed[name] = {"shape": list(value.shape)}
    return packed


def _unpack_moment(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return _unpack_positive(value) if "codes" in value else torch.zeros(value["shape"])


def _pack_positive(values: Tensor) -> dict[str, Any]:
    """8 bits a value: 0, or one of 255 steps between the logarithms of the least and greatest."""
    positive = values > 0
    logarithms = values.double().clamp_min(1e-300).log2()
    among = logarithms[positive]
    low, high = (among.min().item(), among.max().item()) if among.numel() else (0.0, 0.0)
    scale = 254 / (high - low) if high > low else 0.0
    codes = ((logarithms - low) * scale).round() + 1
    return {
        "codes": torch.where(positive, codes.clamp(1, 255), 0).to(torch.uint8),
        "low": low,
        "high": high,
    }


def _unpack_positive(packed: dict[str, Any]) -> Tensor:
    codes, low, high = packed["codes"], packed["low"], packed["high"]
    values = torch.exp2(low + (codes.double() - 1) * (high - low) / 254)
    return torch.where(codes > 0, values, 0).float()


def run_slice(state: Path, arguments: Sequence[str], limit: int = LIMIT) -> Path:
    """One slice; returns the final weights, or the last checkpoint if there is more to do.

    Raises:
        CheckpointError: STATE cannot be read or written, or is larger than the limit (the one
            before stays, and ``last.ckpt``).
        MoceirError: as ``moceir.training.run.train``.
    """
    config = parse(arguments)
    if config.max_minutes is None:
        raise ConfigError("a slice ends after --max_minutes: give it")
    files = WholeCheckpointIO()
    last = config.run / "last.ckpt"
    if state.exists() and not last.exists():
        files.save_checkpoint(unpack(files.load_checkpoint(state)), last)
    result = train(config)
    packed = pack(files.load_checkpoint(last))
    beside = state.with_name(f"{state.name}.new")
    files.save_checkpoint(packed, beside)
    size = beside.stat().st_size
    if size > limit:
        beside.unlink()
        raise CheckpointError(
            f"{state}: the state has {size:,} bytes and may have {limit:,}: train a smaller network"
        )
    beside.replace(state)
    return result


def main(arguments: Sequence[str]) -> None:
    """``python -m moceir.training.slices STATE [--NAME VALUE ...]``."""
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(__doc__)
    result = run_slice(Path(arguments[0]), arguments[1:])
    size = Path(arguments[0]).stat().st_size
    print(f"{arguments[0]}: {size:,} bytes; {result}")


if __name__ == "__main__":
    main(sys.argv[1:])
