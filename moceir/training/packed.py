"""A training checkpoint made small, in a few files of limited size.

The averaged weights have 16 bits, the trained ones are their difference to these in 8 bits. AdamW's
second moments are the outer product of their means over rows and over columns (Shazeer and Stern
2018). Momenta are left out: they build up again within some tens of steps. So a run does not go on
bit by bit, as it does from ``last.ckpt``.

The files of a set bear its step, their number, and the checksum of the whole: files of two sets are
never taken for one. A set is written before the one before is removed, so that whatever is
interrupted leaves a whole one.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moceir.errors import CheckpointError
from moceir.files import make_folder, whole_file
from moceir.weights.names import current_names

PART = 16_700_000
"""Bytes that a file may have: a little less than 16 MiB."""

LIMIT = 34_000_000
"""Bytes that a set may have."""

BLOCK = 256
"""Differences that share a scale."""

NAME = re.compile(r"state-(\d{8})-(\d+)of(\d+)-([0-9a-f]{16})")


def pack(checkpoint: dict[str, Any]) -> bytes:
    """A checkpoint of ``Training`` made small; see the module.

    Raises:
        CheckpointError: a weight is too large for 16 bits.
    """
    averaged, trained = checkpoint["state_dict"], checkpoint["current_model_state"]
    average = _flat(averaged.values())
    half = average.half()
    if not half.isfinite().all():
        raise CheckpointError(
            "an averaged weight is above 65504, or not finite: lower optimizer.lr"
        )
    codes, scales = _to_8_bits(_flat(trained.values()) - half.float())
    planes = torch.from_numpy(half.numpy().view(np.uint8).reshape(-1, 2).T.copy())
    moments = checkpoint["optimizer_states"][0]["state"]
    kinds = [
        {"index": i, "step": float(m["step"]), "shape": list(_moment(m).shape), "names": sorted(m)}
        for i, m in moments.items()
    ]
    seconds = [_factors(m["exp_avg_sq"]) for m in moments.values() if "exp_avg_sq" in m]
    usage = checkpoint["usage"]
    about = {
        "shapes": {name: list(tensor.shape) for name, tensor in averaged.items()},
        "moments": kinds,
        "global_step": checkpoint["global_step"],
        "training_config": checkpoint["training_config"],
        "macs": usage["macs"],
        "loss_means": checkpoint["loss_means"],
    }
    tensors = {
        "average": planes,  # high and low bytes apart: the former compress
        "difference": codes,
        "scales": scales,
        "second": _flat(seconds),
        "counts": usage["counts"],
    }
    return zlib.compress(save(tensors, {"about": json.dumps(about)}), 6)


def unpack(packed: bytes) -> dict[str, Any]:
    """The opposite of ``pack``, up to what it leaves out.

    Raises:
        CheckpointError: not what ``pack`` made.
    """
    try:
        content = zlib.decompress(packed)
        size = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["about"])
        tensors = load(content)
    except (zlib.error, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"not a packed checkpoint ({error})") from error
    planes = tensors["average"].numpy()
    average = torch.from_numpy(planes.T.copy().reshape(-1).view(np.float16)).float()
    trained = average + _from_8_bits(tensors["difference"], tensors["scales"])
    shapes = current_names(about["shapes"])
    second, state = tensors["second"], {}
    for kind in about["moments"]:
        moments: dict[str, Tensor] = {"step": torch.tensor(kind["step"])}
        for name in kind["names"]:
            if name == "exp_avg_sq":
                moments[name], second = _from_factors(second, kind["shape"])
            elif name != "step":
                moments[name] = torch.zeros(kind["shape"])
        state[kind["index"]] = moments
    return {
        "global_step": about["global_step"],
        "training_config": about["training_config"],
        "state_dict": _shaped(average, shapes),
        "current_model_state": _shaped(trained, shapes),
        "optimizer_states": [{"state": state}],
        "loss_means": about.get("loss_means", {}),
        "usage": {"counts": tensors["counts"], "macs": about["macs"]},
    }


def _moment(moments: dict[str, Tensor]) -> Tensor:
    return next(t for name, t in moments.items() if name != "step")


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All values in a row, as float32 on the host."""
    return torch.cat([torch.empty(0), *(t.detach().float().cpu().reshape(-1) for t in tensors)])


def _shaped(values: Tensor, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    pieces = zip(shapes.items(), values.split(sizes), strict=True)
    return {name: piece.reshape(shape) for (name, shape), piece in pieces}


def _to_8_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and, for every block of them, the scale: value = code * scale."""
    blocks = torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1) / 127
    codes = (blocks / scales.clamp_min(1e-30)[:, None]).round().to(torch.int8)
    return codes.view(-1)[: len(values)].clone(), scales


def _from_8_bits(codes: Tensor, scales: Tensor) -> Tensor:
    return codes.float() * scales.repeat_interleave(BLOCK)[: len(codes)]


def _factors(values: Tensor) -> Tensor:
    """Means over the columns, then over the rows, of a matrix; anything else as it is."""
    matrix = _matrix(values.shape)
    if matrix is None:
        return values.reshape(-1)
    wide = values.double().reshape(matrix)
    return torch.cat([wide.mean(1), wide.mean(0)]).float()


def _from_factors(values: Tensor, shape: list[int]) -> tuple[Tensor, Tensor]:
    """The values of this shape, and the rest."""
    matrix = _matrix(shape)
    if matrix is None:
        size = int(np.prod(shape))
        return values[:size].reshape(shape), values[size:]
    rows, columns = matrix
    of_rows, of_columns = values[:rows].double(), values[rows : rows + columns].double()
    mean = of_rows.mean().clamp_min(1e-300)
    product = (of_rows[:, None] * of_columns / mean).float()
    return product.reshape(shape), values[rows + columns :]


def _matrix(shape: Iterable[int]) -> tuple[int, int] | None:
    """Rows and columns of a weight, the first dimension by all others."""
    rows, *others = [*shape] or [1]
    columns = int(np.prod(others))
    return (rows, columns) if rows > 1 and columns > 1 else None


def write_set(folder: Path, packed: bytes, step: int, limit: int = LIMIT) -> list[Path]:
    """Write a set of files and remove what is left of others; returns the files.

    Raises:
        CheckpointError: it cannot be written, or is larger than ``limit``; the set before stays.
    """
    if len(packed) > limit:
        raise CheckpointError(
            f"{folder}: the state has {len(packed):,} bytes and may have {limit:,}: train a "
            "smaller network"
        )
    digest = hashlib.sha256(packed).hexdigest()[:16]
    pieces = [packed[i : i + PART] for i in range(0, len(packed), PART)]
    names = [f"state-{step:08d}-{k}of{len(pieces)}-{digest}" for k in range(1, len(pieces) + 1)]
    try:
        make_folder(folder)
        for name, piece in zip(names, pieces, strict=True):
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(piece)
        for path in folder.iterdir():
            unfinished = path.name.startswith(".state-") and path.suffix == ".part"
            if unfinished or (NAME.fullmatch(path.name) and path.name not in names):
                path.unlink()
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the state cannot be written ({error}); the one before is untouched"
        ) from error
    return [folder / name for name in names]


def read_set(folder: Path) -> dict[str, Any] | None:
    """The newest whole set of a folder, unpacked; None: no such file is there.

    Raises:
        CheckpointError: there are files, but no whole set.
    """
    sets: dict[tuple[int, int, str], dict[int, Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := NAME.fullmatch(path.name):
            step, number, of, digest = match.groups()
            sets.setdefault((int(step), int(of), digest), {})[int(number)] = path
    for (_, of, digest), files in sorted(sets.items(), reverse=True):
        if len(files) == of:
            packed = b"".join(files[number].read_bytes() for number in sorted(files))
            if hashlib.sha256(packed).hexdigest()[:16] == digest:
                return unpack(packed)
    if sets:
        found = ", ".join(sorted(path.name for files in sets.values() for path in files.values()))
        raise CheckpointError(
            f"{folder}: no complete state among {found}: copy all files of one set, or remove "
            "these to start over"
        )
    return None
