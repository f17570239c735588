"""Every kernel that a piece of work launches on a GPU, found without one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bench.gpu_model import machine_code
from bench.gpu_model.launch import Array, Kernel, Launch, array
from bench.gpu_model.steps import POINTER, Value
from moce_kernels.absent_gpu import Operators, absent_gpu
from moce_kernels.ops import _library

if TYPE_CHECKING:
    from bench.gpu_model.library import Call, Library

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


class Recorder(Operators):
    """Writes down what the operators launch. A kernel of Triton is one launch, one of PyTorch's or
    of the CUDA library's operators counts as one, though cuDNN may take several."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.calls: dict[int, Call] = {}
        """Of the CUDA library's operators, by the number of the launch."""

    def plain(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().plain(func, args, kwargs)
        name = func.overloadpacket.__name__
        kind = "library" if func.namespace == _library.COMPILED else "aten"
        returns_view = any(
            r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
        )
        if func.namespace != "prim" and not returns_view and name not in NO_KERNEL:
            arrays = [
                array(f"{what}{i}", t)
                for what, values in (("in", (*args, *kwargs.values())), ("out", (result,)))
                for i, t in enumerate(_tensors(values))
            ]
            names = [argument.name for argument in func._schema.arguments]
            scalars = {
                name: value
                for name, value in (*zip(names, args, strict=False), *kwargs.items())
                if not isinstance(value, Tensor)
            }
            if kind == "library":
                self.calls[len(self.launches)] = func, args, kwargs
            self.launches.append(Launch(kind, name, tuple(arrays), scalars))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def trace(
    work: Callable[[], object],
    capability: int = 90,
    library: bool = False,
    compiled: bool = False,
    kernels: Library | None = None,
) -> list[Launch]:
    """What ``work()`` launches, in order.

    Args:
        work: as for ``moce_kernels.precompile``, which makes ``compiled`` quick.
        capability: 10 times the compute capability.
        library: whether the CUDA library is there. Each of its operators counts as one launch.
        compiled: compile Triton's kernels.
        kernels: the library, for its operators' own launches.
    """
    from moce_kernels import triton_kernels

    if reason := triton_kernels.load():
        raise RuntimeError(reason)
    from triton.runtime.jit import JITFunction

    compile_ = functools.partial(JITFunction.run, warmup=True)
    recorder = Recorder()

    def launch(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = [p.name for p in kernel.params]
        given = _flat({**dict(zip(names, args, strict=False)), **kwargs})
        sizes = grid(given) if callable(grid) else grid
        x, y, z = (*sizes, 1, 1)[:3]
        arrays = tuple(array(n, v) for n, v in given.items() if isinstance(v, Tensor))
        scalars = {n: v for n, v in given.items() if not isinstance(v, Tensor)}
        found = None
        if compiled:
            found = _triton_kernel(compile_(kernel, *args, grid=grid, **kwargs), arrays, scalars)
        recorder.launches.append(
            Launch("triton", kernel.__name__, arrays, scalars, (x, y, z), found)
        )

    with absent_gpu(capability, launch, library, recorder):
        work()
    if kernels is None:
        return recorder.launches
    found: list[Launch] = []
    for i, one in enumerate(recorder.launches):
        call = recorder.calls.get(i)
        found += [one] if call is None else kernels.launches(call)
    return found


def _flat(named: Mapping[str, Any]) -> dict[str, Any]:
    """With the parts of a strided tensor ``x`` by themselves: ``x``, ``x.b``, ``x.c`` and so on."""
    found: dict[str, Any] = {}
    for name, value in named.items():
        parts = value._asdict() if hasattr(value, "_asdict") else {"data": value}
        found |= {name if part == "data" else f"{name}.{part}": v for part, v in parts.items()}
    return found


def _triton_kernel(compiled: Any, arrays: tuple[Array, ...], scalars: dict[str, Any]) -> Kernel:
    """With the parameters of the machine code: Triton has made constants of some arguments, and
    adds two pointers of its own."""
    code = machine_code.read(compiled.asm["cubin"])
    kinds = _flat(compiled.src.signature)
    names = [name for name, kind in kinds.items() if kind != "constexpr"]
    pointers = {one.name: (i + 1) << POINTER for i, one in enumerate(arrays)}
    parameters: list[Value] = [None] * max(at + size for at, size in code.parameters)
    for name, (at, size) in zip(names, code.parameters, strict=False):
        value = pointers.get(name, scalars.get(name))
        if isinstance(value, int):
            word = value & (1 << 8 * size) - 1
            parameters[at : at + size] = word.to_bytes(size, "little")
    metadata = compiled.metadata
    shared = code.shared + metadata.shared
    return Kernel(code, 32 * metadata.num_warps, shared, tuple(parameters))
