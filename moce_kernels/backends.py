"""Which backends can run an operator here, and why the others cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from moce_kernels import composites, native, triton_kernels

VARIABLE = "MOCE_KERNELS_BACKEND"

BACKENDS = ("cuda", "triton", "cpu", "reference")  # fastest first

OPERATORS = (
    "channel_attention",
    "depthwise_conv",
    "fft_attention",
    "gated_depthwise_conv",
    "gated_feedforward",
    "grouped_experts",
    "pointwise_conv",
    "projected_depthwise_conv",
    "routing_plan",
    "transposed_attention",
    "window_fft_conv",
)

# The operators that each backend has kernels for; on CUDA also those that are composed of them.
KERNELS: dict[str, tuple[str, ...]] = {
    "cuda": (
        "depthwise_conv",
        "fft_attention",
        "gated_depthwise_conv",
        "routing_plan",
        "window_fft_conv",
    ),
    "triton": triton_kernels.OPERATORS,
    "cpu": OPERATORS,
}

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

F = TypeVar("F", bound=Callable[..., Any])


class BackendUnavailableError(RuntimeError):
    """The backend that was asked for cannot run; the message says why, and what can."""


def why_not(
    backend: str, operator: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> str | None:
    """Why ``backend`` cannot run ``operator`` on such tensors, or None if it can."""
    if backend == "reference":
        return None
    composed = backend == "cuda" and operator in composites.OPERATORS
    if operator not in KERNELS[backend] and not composed:
        name = {"cuda": "CUDA", "triton": "Triton", "cpu": "CPU"}[backend]
        return f"no {name} kernel for {operator} in this version"
    if backend == "triton" and device.type == "cpu" and triton_kernels.interpreted():
        device_type = "cpu"
    else:
        device_type = "cpu" if backend == "cpu" else "cuda"
    if device.type != device_type:
        return f"it runs on {device_type} tensors, these are on {device}"
    if dtype not in KERNEL_DTYPES:
        return f"it takes float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if backend == "triton":
        return triton_kernels.load()
    reason = native.load(backend)
    if backend == "cuda":
        reason = reason or native.why_not_on_gpu(device.index)
    return reason or (composites.load() if composed else None)


def _assume_constant_result(function: F) -> F:
    """``torch.compiler.assume_constant_result``, which imports torch._dynamo: seconds, for all who
    compile nothing."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_assume_constant_result
def choose(
    operator: str, backend: str | None, device: torch.device, dtype: torch.dtype = torch.float32
) -> str:
    """The backend to run ``operator`` with on tensors of this device and dtype.

    ``backend`` if given, else the environment's MOCE_KERNELS_BACKEND: that one or
    ``BackendUnavailableError``, never another. With neither, the fastest that can run.
    """
    asked = backend or os.environ.get(VARIABLE) or None
    if asked is None:
        # Triton's interpreter is for tests: it runs where it is asked for by name.
        fast = [b for b in BACKENDS if not (b == "triton" and triton_kernels.interpreted())]
        return next(b for b in fast if why_not(b, operator, device, dtype) is None)
    if asked not in BACKENDS:
        source = "backend" if backend else VARIABLE
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, not {asked!r}")
    if why_not(asked, operator, device, dtype) is None:
        return asked
    reasons = (f"{b}: {why_not(b, operator, device, dtype) or 'can run'}" for b in BACKENDS)
    raise BackendUnavailableError(
        f"{operator}: backend {asked!r} cannot run here.\n  " + "\n  ".join(reasons)
    )
