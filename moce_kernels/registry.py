"""The operators: what each of them declares about itself in ``moce_kernels/ops``.

Whatever goes through all operators (the choice of a backend, ``python -m moce_kernels.info``, the
import of Triton's kernels, tests, benchmarks) takes them from here.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Cost(NamedTuple):
    """What one call cannot do without, from the shapes of its tensors.

    Bytes count every activation that is read or written once; parameters, which are small beside
    them, do not count. Operations are additions and multiplications.
    """

    bytes: float
    operations: float
    # Of the gradients of all tensors, in addition.
    backward_bytes: float
    backward_operations: float

    @property
    def with_backward(self) -> tuple[float, float]:
        """Bytes and operations of a call and its gradients."""
        return self.bytes + self.backward_bytes, self.operations + self.backward_operations


@dataclass(frozen=True)
class Operator:
    """One operator. Its name is that of the public function, of its module in ``ops``,
    ``reference``, ``triton_kernels`` and ``csrc``, and of the raw operator."""

    name: str
    cost: Callable[..., Cost]
    """Of the raw operator's arguments."""
    kernels: tuple[str, ...]
    """The backends that have kernels for it: of "cpu", "triton" and "cuda"."""
    composed: bool
    """Whether ``cuda`` runs it without kernels of its own, see ``composites``."""
    gradient_calls: tuple[str, ...]
    """The other operators that its gradients call, but for those of the CPU library."""
    again: bool
    """Whether its gradients can be differentiated."""

    @functools.cached_property
    def backends(self) -> tuple[str, ...]:
        """Those that can run it, beside the reference."""
        return (*self.kernels, "cuda") if self.composed else self.kernels


OPERATORS: dict[str, Operator] = {}
"""By name. Complete once ``moce_kernels`` is imported."""


def names(backend: str | None = None) -> tuple[str, ...]:
    """All operators, or those that a backend has kernels for, in alphabetical order."""
    return tuple(
        sorted(o.name for o in OPERATORS.values() if backend is None or backend in o.kernels)
    )


def composed() -> tuple[str, ...]:
    """The operators that ``cuda`` makes of others, in alphabetical order."""
    return tuple(sorted(o.name for o in OPERATORS.values() if o.composed))


def whose_gradients_call(name: str) -> tuple[str, ...]:
    """The operators that declare ``name`` in ``gradient_calls``, in alphabetical order."""
    return tuple(sorted(o.name for o in OPERATORS.values() if name in o.gradient_calls))


def import_all(path: Iterable[str], package: str) -> None:
    """Import the modules of a package, but for private ones: operators declare themselves."""
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
