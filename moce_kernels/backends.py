"""Which backends can run an operator on this machine, why others cannot, and which is chosen."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from moce_kernels import composites, native, registry, triton_kernels
from moce_kernels.failures import VARIABLE, BackendUnavailableError

BACKENDS = ("cuda", "triton", "cpu", "reference")  # fastest first

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

F = TypeVar("F", bound=Callable[..., Any])


def why_not(
    backend: str, operator: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> str | None:
    """Why ``backend`` cannot run ``operator`` on such tensors, or None if it can."""
    if backend == "reference":
        return None
    declared = registry.OPERATORS[operator]
    if backend not in declared.backends:
        name = {"cuda": "CUDA", "triton": "Triton", "cpu": "CPU"}[backend]
        return f"no {name} kernel for {operator} in this version"
    if backend == "triton" and device.type == "cpu" and triton_kernels.interpreted():
        device_type = "cpu"
    else:
        device_type = "cpu" if backend == "cpu" else "cuda"
    if device.type != device_type:
        return f"it runs on {device_type} tensors, and these are on {device}"
    if dtype not in KERNEL_DTYPES:
        return f"it takes float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if backend == "triton":
        return triton_kernels.load()
    if backend == "cpu":
        return native.load("cpu")
    reason = native.load("cuda") or native.why_not_on_gpu(device.index)
    return reason or (composites.load() if declared.composed else None)


def _assume_constant_result(function: F) -> F:
    """``torch.compiler.assume_constant_result``, which imports torch._dynamo and costs seconds even
    when nothing is compiled."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_assume_constant_result
def pytorch_multiplies(dtype: torch.dtype) -> bool:
    """Whether PyTorch's own operators have instructions for matrix products of a 16-bit ``dtype``
    on this processor. Without them, an x86-64 processor is several times slower than in float32.
    Other processors are taken to have them, because that has not been measured."""
    found = torch.cpu.get_capabilities()
    if found.get("architecture") != "x86_64":
        return True
    kind = "bf16" if dtype is torch.bfloat16 else "fp16"
    return bool(found.get(f"avx512_{kind}") or found.get(f"amx_{kind}"))


# What use_backends asks for, written as in the environment. A string, so that torch.compile can
# guard it.
_in_python = ""


@contextlib.contextmanager
def use_backends(others: str | None = None, /, **operators: str) -> Iterator[None]:
    """Choose the backends of operators called inside a ``with`` block.

    >>> with moce_kernels.use_backends("triton", grouped_experts="reference"):
    ...     y = model(x)

    It takes precedence over the environment's MOCE_KERNELS_BACKEND, and the ``backend`` argument of
    a call over both. Blocks nest: operators that the inner block does not name follow the outer
    block, then the environment. A block applies to the whole process, including its threads, like
    the environment. Code under torch.compile is compiled again under another setting.

    Args:
        others: the backend of all operators that are not named in ``operators``.
        operators: a backend for individual operators.

    Raises:
        ValueError: an unknown operator or backend.
    """
    global _in_python
    outer = _in_python
    asked = [f"{name}={backend}" for name, backend in operators.items()]
    if others is not None:
        asked.append(f"*={others}")
    inner = parse(",".join(asked), "use_backends")
    both = inner if "*" in inner else {**parse(outer, "use_backends"), **inner}
    _in_python = ",".join(f"{name}={backend}" for name, backend in both.items())
    try:
        yield
    finally:
        _in_python = outer


def parse(text: str, source: str) -> dict[str, str]:
    """The backend for each operator, and for ``*``, all others, of ``operator=backend,...``.

    A backend alone stands for ``*=backend``.

    Raises:
        ValueError: a part in none of these forms; the message names it and ``source``.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        operator, equals, backend = (word.strip() for word in part.rpartition("="))
        if not equals:
            operator = "*"
        if not operator or not backend:
            problem = "write operator=backend, *=backend or a backend"
        elif operator != "*" and operator not in registry.OPERATORS:
            known = ", ".join(registry.names())
            problem = f"no operator {operator!r}; there are {known}, and * for all"
        elif backend not in BACKENDS:
            problem = f"no backend {backend!r}; there are {', '.join(BACKENDS)}"
        elif operator in found:
            problem = f"{operator} is named twice"
        else:
            found[operator] = backend
            continue
        raise ValueError(f"{source}: in {part.strip()!r}: {problem}")
    return found


def settings(in_python: str | None = None) -> list[tuple[str, str]]:
    """The settings in force, as (source, text); the first that names an operator decides."""
    texts = {
        "use_backends": _in_python if in_python is None else in_python,
        VARIABLE: os.environ.get(VARIABLE, "").strip(),
    }
    return [(source, text) for source, text in texts.items() if text]


def asked_for(operator: str, in_python: str | None = None) -> tuple[str, str] | None:
    """The backend requested by ``use_backends`` or else by the environment, and by which."""
    for source, text in settings(in_python):
        backends = _parse_once(text, source)
        for name in (operator, "*"):
            if name in backends:
                return backends[name], source
    return None


_parse_once = functools.lru_cache(parse)


def choose(
    operator: str, backend: str | None, device: torch.device, dtype: torch.dtype = torch.float32
) -> str:
    """The backend to run ``operator`` with on tensors of this device and dtype.

    ``backend`` if given, otherwise what ``use_backends`` names, otherwise the environment's
    MOCE_KERNELS_BACKEND. A requested backend runs or raises; there is no fallback. Without a
    request, the fastest backend that can run.

    Under torch.compile the choice is made when the code is compiled, and again under another
    ``use_backends``. Later changes of the environment have no effect.

    Raises:
        ValueError: an unknown backend, or a setting that cannot be read.
        BackendUnavailableError: the backend cannot run, and why.
    """
    return _choose(operator, backend, _in_python, device, dtype)


@_assume_constant_result
def _choose(
    operator: str,
    backend: str | None,
    in_python: str,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    found = (backend, "backend") if backend else asked_for(operator, in_python)
    if found is None:
        # Triton's interpreter is for tests: it runs only when requested by name.
        fast = [b for b in BACKENDS if not (b == "triton" and triton_kernels.interpreted())]
        return next(b for b in fast if why_not(b, operator, device, dtype) is None)
    asked, source = found
    if asked not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, not {asked!r}")
    if why_not(asked, operator, device, dtype) is None:
        return asked
    reasons = (f"{b}: {why_not(b, operator, device, dtype) or 'can run'}" for b in BACKENDS)
    raise BackendUnavailableError(
        f"{operator}: backend {asked!r} cannot run here; {source} asks for it.\n  "
        + "\n  ".join(reasons)
    )
