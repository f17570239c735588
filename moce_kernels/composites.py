"""The ``cuda`` backend of composed operators.

The CUDA library has kernels for some operators only. For an operator that consists of others, as a
GDFN consists of 1x1 and depthwise convolutions, the backend ``cuda`` uses the library's kernels for
the parts it has and Triton's for the rest, forward and backward. An operator's backend is decided
when it is called: a setting for one of its parts has no effect on it.
"""

from __future__ import annotations

import functools

from moce_kernels import native, registry, triton_kernels
from moce_kernels.ops import _library


def load() -> str | None:
    """Register them in the CUDA library's namespace, once. Returns why that failed, or None."""
    reason = native.load("cuda") or triton_kernels.load()
    if reason is None:
        register()
    return reason


@functools.cache
def register() -> None:
    """What ``load`` does once Triton's kernels are there."""
    from importlib import import_module

    from moce_kernels.triton_kernels._common import implement
    from moce_kernels.triton_kernels._parts import of_cuda_library

    parts = of_cuda_library(_library.raw("cuda"))
    for operator in _from_triton():
        module = import_module(f"moce_kernels.triton_kernels.{operator}")
        implement(operator, _library.COMPILED)(module.forward)
        implement(f"{operator}_backward", _library.COMPILED)(module.backward)
    for operator in registry.composed():
        module = import_module(f"moce_kernels.triton_kernels.{operator}")
        implement(operator, _library.COMPILED)(functools.partial(module.forward, parts=parts))
        if hasattr(module, "backward"):  # else its gradients are made of other operators
            backward = functools.partial(module.backward, parts=parts)
            implement(f"{operator}_backward", _library.COMPILED)(backward)


def _from_triton() -> list[str]:
    """The operators that gradients of the composed ones call and the library has no kernels for."""
    called = {c for name in registry.composed() for c in registry.OPERATORS[name].gradient_calls}
    return sorted(name for name in called if "cuda" not in registry.OPERATORS[name].kernels)
