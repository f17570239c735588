"""Every kernel that a piece of work launches on a GPU, found without one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moce_kernels.absent_gpu import Operators, absent_gpu
from moce_kernels.ops import _library

# PyTorch's operators that launch nothing, beside those that return views.
NO_KERNEL = (
    "_unsafe_view",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "sym_size",
)


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


@dataclass(frozen=True)
class Launch:
    kind: str
    """``triton``, ``library`` (CUDA C++) or ``aten``."""
    name: str
    arrays: tuple[Array, ...]
    scalars: dict[str, Any]
    """The other arguments by name, Triton's constants among them."""
    grid: tuple[int, int, int] = (1, 1, 1)
    compiled: Any = None
    """Triton's compiled kernel, if it was to be compiled."""


class Recorder(Operators):
    """Writes down what the operators launch. A kernel of Triton is one launch, one of PyTorch's or
    of the CUDA library's operators counts as one, though cuDNN may take several."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def plain(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().plain(func, args, kwargs)
        name = func.overloadpacket.__name__
        kind = "library" if func.namespace == _library.COMPILED else "aten"
        returns_view = any(
            r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
        )
        if func.namespace != "prim" and not returns_view and name not in NO_KERNEL:
            arrays = [
                _array(f"{what}{i}", t)
                for what, values in (("in", (*args, *kwargs.values())), ("out", (result,)))
                for i, t in enumerate(_tensors(values))
            ]
            names = [argument.name for argument in func._schema.arguments]
            scalars = {
                name: value
                for name, value in (*zip(names, args, strict=False), *kwargs.items())
                if not isinstance(value, Tensor)
            }
            self.launches.append(Launch(kind, name, tuple(arrays), scalars))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _array(name: str, t: Tensor) -> Array:
    return Array(name, tuple(t.shape), t.stride(), t.dtype, t.untyped_storage()._cdata)


def trace(
    work: Callable[[], object], capability: int = 90, library: bool = False, compiled: bool = False
) -> list[Launch]:
    """What ``work()`` launches, in order.

    Args:
        work: as for ``moce_kernels.precompile``, which makes ``compiled`` quick.
        capability: 10 times the compute capability.
        library: whether the CUDA library is there.
        compiled: compile Triton's kernels.
    """
    from moce_kernels import triton_kernels

    if reason := triton_kernels.load():
        raise RuntimeError(reason)
    from triton.runtime.jit import JITFunction

    compile_ = functools.partial(JITFunction.run, warmup=True)
    recorder = Recorder()

    def launch(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = [p.name for p in kernel.params]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        sizes = grid(given) if callable(grid) else grid
        x, y, z = (*sizes, 1, 1)[:3]
        recorder.launches.append(
            Launch(
                "triton",
                kernel.__name__,
                tuple(_array(n, v) for n, v in given.items() if isinstance(v, Tensor)),
                {n: v for n, v in given.items() if not isinstance(v, Tensor)},
                (x, y, z),
                compile_(kernel, *args, grid=grid, **kwargs) if compiled else None,
            )
        )

    with absent_gpu(capability, launch, library, recorder):
        work()
    return recorder.launches
