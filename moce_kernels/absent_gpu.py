"""Run the operators without a GPU: every launch is recorded, nothing is computed.

Inside ``absent_gpu`` tensors are fake: they have a shape, strides and a dtype, but no memory. The
operators run the host code of their kernels on them, and each Triton launch goes to a function
instead of a GPU. Two tools build on this: ``moce_kernels.precompile`` compiles what is launched,
and ``bench.gpu_model`` counts it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from moce_kernels import backends, composites, registry, triton_kernels
from moce_kernels.ops import _library

Launch = Callable[..., Any]
"""Called with the kernel (a ``JITFunction``), its grid, positional and keyword arguments."""


class Target:
    """What Triton asks a driver for before it launches a kernel."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)
        self.device = object()  # Triton remembers compiled kernels by device: these are ours

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> Any:
        return self.device

    def get_current_stream(self, device: Any) -> int:
        return 0


class Operators(TorchDispatchMode):
    """Runs Triton's host code when one of our raw operators is called."""

    def __init__(self) -> None:
        super().__init__()
        from moce_kernels.triton_kernels import _common

        self.implementations = _common.IMPLEMENTATIONS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.namespace, func.overloadpacket.__name__
        if name in self.implementations:
            with self:
                return self.implementations[name](*args, **(kwargs or {}))
        if func.namespace == "aten":
            with self:  # without autograd, composed operators arrive whole
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return self.plain(func, args, kwargs or {})

    def plain(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """PyTorch's operators, and those of the CUDA library, of which only shapes are known."""
        return as_on_cuda(func, args, func(*args, **kwargs))


def as_on_cuda(func: Any, args: tuple[Any, ...], result: Any) -> Any:
    """An operator's result with the memory layout that it has on CUDA.

    cuDNN's convolutions are channels-last where the input or the weight is; ``pixel_shuffle`` and
    its inverse return NCHW memory whatever they are given.
    """
    aten = torch.ops.aten
    if func in (aten.pixel_shuffle.default, aten.pixel_unshuffle.default):
        return result.contiguous()
    if func is aten.convolution.default:
        return _channels_last(result) if _is_channels_last(*args[:2]) else result.contiguous()
    if func is aten.convolution_backward.default:
        _, x, weight = args[:3]
        dx, dweight, dbias = result
        if _is_channels_last(x, weight):
            dx, dweight = (None if t is None else _channels_last(t) for t in (dx, dweight))
        return dx, dweight, dbias
    return result


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def _is_channels_last(*tensors: Tensor) -> bool:
    return any(
        t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
        for t in tensors
    )


def _address(self: Tensor) -> int:
    """Of a fake tensor's first element, as far as alignment goes: PyTorch's allocations on a GPU
    start at multiples of 512."""
    return int(self.storage_offset()) * self.element_size()


@contextlib.contextmanager
def absent_gpu(
    capability: int, launch: Launch, library: bool, operators: Operators | None = None
) -> Iterator[None]:
    """Operators that are called inside run as on a GPU of this compute capability (90: 9.0).

    Args:
        capability: 10 times the compute capability.
        launch: called in place of each launch of a Triton kernel.
        library: whether ``backends.choose`` should find the CUDA library.
        operators: handles all operators that are called, if more is to be done with them.

    Tensors made inside are fake. To PyTorch they are on the CPU, so that autograd and autocast
    (``torch.autocast("cpu", dtype)``) work. Tensors from outside may be used, such as the
    parameters of a network.

    Raises:
        RuntimeError: Triton is not installed, or in interpreter mode.
    """
    if reason := triton_kernels.load():
        raise RuntimeError(reason)
    if triton_kernels.interpreted():
        raise RuntimeError("Triton is in interpreter mode: unset TRITON_INTERPRET")
    composites.register()
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    def choose(operator: str, backend: str | None, *_: Any) -> str:
        on_cuda = "cuda" in registry.OPERATORS[operator].backends
        return "cuda" if library and on_cuda else "triton"

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launch(self, grid, args, kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(backends, "choose", choose))
        # Fake tensors are on the CPU, but are to be taken for a GPU's.
        stack.enter_context(_replaced(_library, "fuses_gradients", lambda *_: False))
        stack.enter_context(_replaced(JITFunction, "run", run))
        stack.enter_context(_replaced(FakeTensor, "data_ptr", _address))
        # Not reset_active(), which looks for a GPU.
        stack.enter_context(_replaced(driver, "_active", Target(capability)))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(operators or Operators())
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
