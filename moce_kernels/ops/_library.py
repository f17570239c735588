"""Raw operators: each is declared once and stands in one namespace for each library of kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from moce_kernels.failures import KernelUnavailableError

# The compiled libraries implement the operators of the first, one for CPU tensors and one for CUDA
# tensors; Triton's kernels those of the second. A graph recorded with one backend differentiates
# with the same one.
COMPILED, TRITON = "moce_kernels", "moce_kernels_triton"


def kernels(backend: str) -> Any:
    """The raw operators that ``backend`` implements."""
    return torch.ops.moce_kernels_triton if backend == "triton" else torch.ops.moce_kernels


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
            formula = functools.partial(
                _differentiate, name, backward, getattr(torch.ops, namespace)
            )
            torch.library.register_autograd(operator, formula, setup_context=setup_context)


def _differentiate(name: str, backward: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return backward(*arguments)
    except KernelUnavailableError as error:
        error.called_by(name)
        raise
