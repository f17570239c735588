"""What the Triton kernels share: registration, loads and stores, tensors of scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from moce_kernels.ops import _library
from moce_kernels.triton_kernels import interpreted


def implement(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as Triton's implementation of a raw operator.

    On CPU tensors, too: there it runs in the interpreter.
    """
    devices = ("cuda", "cpu") if interpreted() else ("cuda",)
    return torch.library.impl(f"{_library.TRITON}::{name}", devices)


@triton.jit
def load(pointers, mask):
    """As float32; zero where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(pointers, value, mask):
    """Rounded to the nearest value of the tensor's dtype."""
    dtype: tl.constexpr = pointers.dtype.element_ty
    if dtype.primitive_bitwidth < 32:
        # The default in compiled kernels; the interpreter would truncate.
        value = value.to(dtype, fp_downcast_rounding="rtne")
    tl.store(pointers, value, mask=mask)
