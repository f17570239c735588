"""Raw operators: each is declared once, with one namespace per library of kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from moce_kernels.failures import KernelUnavailableError, no_image
from moce_kernels.registry import OPERATORS, Cost, Operator

# The compiled libraries implement the operators of the first, one for CPU tensors and one for CUDA
# tensors; Triton's kernels those of the second. A graph recorded with one backend differentiates
# with the same one.
COMPILED, TRITON = "moce_kernels", "moce_kernels_triton"


def raw(backend: str) -> Any:
    """The raw operators that ``backend`` implements."""
    return torch.ops.moce_kernels_triton if backend == "triton" else torch.ops.moce_kernels


def fuses_gradients(operators: Any, grad: Tensor) -> bool:
    """Whether ``operators`` has kernels for the gradients of whole blocks. The CPU library has;
    elsewhere they are made of the gradients of a block's parts."""
    return operators is torch.ops.moce_kernels and grad.device.type == "cpu"


class _Named:
    """The compiled operators, of which one that the GPU cannot load is named."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = functools.partial(named, name, getattr(torch.ops.moce_kernels, name))
        setattr(self, name, call)
        return call


_NAMED = _Named()


class _NoTangents:
    """The raw operators while forward-mode derivatives are being taken: those of tensors that have
    one would be left out, without a word."""

    def __init__(self, operators: Any) -> None:
        self._operators = operators

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._checked, name)

    def _checked(self, name: str, *arguments: Any) -> Any:
        refuse_tangents(name, arguments)
        return getattr(self._operators, name)(*arguments)


def kernels(backend: str) -> Any:
    """The raw operators to call; in graphs of torch.compile, which name nothing, as they are."""
    if forward_ad._current_level >= 0:
        return _NoTangents(raw(backend))
    on_gpu = backend == "cuda" and not torch.compiler.is_compiling()
    return _NAMED if on_gpu else raw(backend)


def refuse_tangents(name: str, arguments: Any) -> None:
    """Raises for a tensor that has a forward-mode derivative.

    Inside ``torch.func`` transforms a tensor of another transform counts as one: what it wraps may
    have a derivative.
    """
    for t in tree_leaves(arguments):
        if isinstance(t, Tensor) and (
            is_functorch_wrapped_tensor(t) or forward_ad.unpack_dual(t).tangent is not None
        ):
            raise NotImplementedError(
                f"{name}: the kernels have no forward-mode derivative; {_REFERENCE_HAS_IT}"
            )


_REFERENCE_HAS_IT = (
    'the reference has: call it with backend="reference", or the whole network inside '
    '`with moce_kernels.use_backends("reference"):`'
)


class _Once(torch.autograd.Function):
    """Gradients as they are, which cannot be differentiated again.

    What they were made of is an input as well, so that a backward pass to any of it comes by here.
    """

    @staticmethod
    def forward(name: str, count: int, *gradients_and_sources: Tensor | None) -> Any:
        gradients = gradients_and_sources[:count]
        return tuple(g if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            f"{ctx.name}: the kernels have no second derivative; {_REFERENCE_HAS_IT}"
        )


def _formula(
    name: str, again: bool, backward: Callable[..., Any], ops: Any, ctx: Any, *grads: Any
) -> Any:
    """The gradients that ``backward`` gives, and no wrong numbers where they are differentiated."""
    if all(grad is None for grad in grads):  # where an operator does not ask for zeros
        return (None,) * len(ctx.needs_input_grad)
    if forward_ad._current_level >= 0:
        refuse_tangents(name, (grads, ctx.saved_tensors))
    if again or not torch.is_grad_enabled():  # without create_graph
        return backward(ops, ctx, *grads)
    with torch.no_grad():
        results, structure = tree_flatten(backward(ops, ctx, *grads))
    results = _Once.apply(name, len(results), *results, *grads, *ctx.saved_tensors)
    return tree_unflatten(list(results), structure)


def named(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
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


def operator(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    *,
    cost: Callable[..., Cost],
    kernels: tuple[str, ...],
    composed: bool = False,
    gradient_calls: tuple[str, ...] = (),
    again: bool = False,
) -> None:
    """Declare an operator: its raw one, as ``declare`` does, and what the registry holds of it."""
    declare(name, schema, fake, setup_context, backward, again)
    OPERATORS[name] = Operator(name, cost, kernels, composed, gradient_calls, again)


def declare(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    again: bool = False,
) -> None:
    """Declare a raw operator in both namespaces.

    ``backward`` is called with the namespace's operators, ctx and the upstream gradients. With
    ``again`` its result can be differentiated as well: it is made of operators that all have a
    ``backward`` themselves. Without, a second derivative is refused, as forward-mode derivatives
    are of every operator: PyTorch would give wrong numbers.
    """
    for namespace in (COMPILED, TRITON):
        operator = f"{namespace}::{name}"
        torch.library.define(operator, schema)
        torch.library.register_fake(operator, fake)
        if backward is not None:
            ops = getattr(torch.ops, namespace)
            formula = functools.partial(named, name, _formula, name, again, backward, ops)
            torch.library.register_autograd(operator, formula, setup_context=setup_context)
