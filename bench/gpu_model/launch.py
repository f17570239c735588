"""What is known of a launch: the tensors, the grid and, if it was compiled, the machine code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.gpu_model.machine_code import Code
from bench.gpu_model.steps import Value


@dataclass(frozen=True)
class Array:
    """A tensor that a kernel is given."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    storage: int
    """Equal for two arrays of a launch that share memory."""

    @property
    def bytes(self) -> int:
        """Of its elements; those of an expanded dimension are there once."""
        count = self.dtype.itemsize
        for size, stride in zip(self.shape, self.strides, strict=True):
            count *= size if stride else 1
        return count

    @property
    def contiguous_activation(self) -> bool:
        """(B, C, H, W) with more than one channel, and these not adjacent in memory."""
        if len(self.shape) != 4 or self.shape[1] == 1 or self.shape[2] * self.shape[3] == 1:
            return False
        return self.strides[1] != 1


def array(name: str, t: Tensor) -> Array:
    return Array(name, tuple(t.shape), t.stride(), t.dtype, t.untyped_storage()._cdata)


@dataclass(frozen=True, eq=False)
class Kernel:
    """Machine code, and what it is launched with."""

    code: Code
    threads: int
    """Of a block."""
    shared: int
    """Bytes of a block."""
    parameters: tuple[Value, ...]
    """Byte by byte. A pointer is that of ``steps.POINTER``, to an array of the launch."""


@dataclass(frozen=True)
class Launch:
    kind: str
    """``triton``, ``library`` (CUDA C++) or ``aten``."""
    name: str
    arrays: tuple[Array, ...]
    scalars: dict[str, Any]
    """The other arguments by name, Triton's constants among them."""
    grid: tuple[int, int, int] = (1, 1, 1)
    kernel: Kernel | None = None
    """If it was to be compiled, and is not PyTorch's."""
