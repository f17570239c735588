"""Raw operators: each is declared once and stands in one namespace for each library of kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from moce_kernels.failures import KernelUnavailableError, no_image

# The compiled libraries implement the operators of the first, one for CPU tensors and one for CUDA
# tensors; Triton's kernels those of the second. A graph recorded with one backend differentiates
# with the same one.
COMPILED, TRITON = "moce_kernels", "moce_kernels_triton"


def raw(backend: str) -> Any:
    """The raw operators that ``backend`` implements."""
    return torch.ops.moce_kernels_triton if backend == "triton" else torch.ops.moce_kernels


class _Named:
    """The compiled operators, of which one that the GPU cannot load is named."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = functools.partial(_named, name, getattr(torch.ops.moce_kernels, name))
        setattr(self, name, call)
        return call


_NAMED = _Named()


def kernels(backend: str) -> Any:
    """The raw operators to call; in graphs of torch.compile, which name nothing, as they are."""
    on_gpu = backend == "cuda" and not torch.compiler.is_compiling()
    return _NAMED if on_gpu else raw(backend)


def _named(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result. What fails inside is blamed on the operator ``name``, the one that was
    called: only its own backend can be chosen."""
    try:
        return function(*arguments)
    except KernelUnavailableError as error:
        error.called_by(name)
        raise
    except RuntimeError as error:
        named = no_image(name, error)
        if named is None:
            raise
        raise named from error


def declare(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Declare an operator in both namespaces.

    ``backward`` is called with the namespace's operators, ctx and the upstream gradients.
    """
    for namespace in (COMPILED, TRITON):
        operator = f"{namespace}::{name}"
        torch.library.define(operator, schema)
        torch.library.register_fake(operator, fake)
        if backward is not None:
            formula = functools.partial(_named, name, backward, getattr(torch.ops, namespace))
            torch.library.register_autograd(operator, formula, setup_context=setup_context)
