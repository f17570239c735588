"""Degradations of one kind for the patches of a batch that have it, planned on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moceir.data.counter import levels


@dataclass
class Stage:
    """What is done to some patches of a batch.

    Args:
        members: (n,) their places in the batch.
        apply: ``(images (n, 3, H, W), **tensors) -> images``, float32; may overwrite what it is
            given, and waits for no device.
        arrays: its tensors as the host has planned them, float32, int32 or int64.
        keys: (n, f, 2) int32: it is given ``fields`` besides, (n, f, H, W) int32 random numbers
            from 0 to 65535, see ``counter.levels``.
    """

    members: np.ndarray
    apply: Callable[..., Tensor]
    arrays: dict[str, np.ndarray]
    keys: np.ndarray | None = None

    def first(self, chosen: np.ndarray) -> Stage:
        """The same with those that are ``chosen``, (n,) bool, before the others.

        All arrays need to have n rows.
        """
        order = np.argsort(~chosen, kind="stable")
        arrays = {name: values[order] for name, values in self.arrays.items()}
        keys = None if self.keys is None else self.keys[order]
        return Stage(self.members[order], self.apply, arrays, keys)


def run(images: Tensor, stages: Sequence[Stage]) -> Tensor:
    """Apply the stages in order to (b, 3, H, W) float32, which is overwritten.

    Everything that the host has planned goes to the device in one copy.
    """
    height, width = images.shape[2:]
    keys = [stage.keys for stage in stages if stage.keys is not None]
    named = [{"members": s.members.astype(np.int64), **s.arrays} for s in stages]
    if keys:
        named.append({"keys": np.concatenate([k.reshape(-1, 2) for k in keys])})
    tensors = iter(send([a for arrays in named for a in arrays.values()], images.device))
    given = [{name: next(tensors) for name in arrays} for arrays in named]
    if keys:
        drawn = levels(given.pop()["keys"], height * width)
        parts = iter(drawn.split([k.shape[0] * k.shape[1] for k in keys]))
    for stage, arguments in zip(stages, given, strict=True):
        members = arguments.pop("members")
        if stage.keys is not None:
            shape = (*stage.keys.shape[:2], height, width)
            arguments["fields"] = next(parts).view(shape)
        part = stage.apply(images.index_select(0, members), **arguments)
        images.index_copy_(0, members, part)
    return images


def send(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on the device, parts of one buffer."""
    starts = np.cumsum([0] + [-(-a.nbytes // 16) * 16 for a in arrays])
    buffer = torch.empty(int(starts[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    whole = buffer.numpy()
    for array, start in zip(arrays, starts[:-1], strict=True):
        whole[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
    there = buffer.to(device, non_blocking=True)
    return [
        there[start : start + a.nbytes].view(torch.from_numpy(a[:0]).dtype).view(a.shape)
        for a, start in zip(arrays, starts[:-1].tolist(), strict=True)
    ]


def column(values: np.ndarray) -> np.ndarray:
    """(n, ...) as float32, (n, 1, 1, 1) or (n, c, 1, 1), to be broadcast over images."""
    values = np.asarray(values, dtype=np.float32)
    return values.reshape(len(values), -1, 1, 1)
