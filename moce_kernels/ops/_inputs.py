"""Checks and casts that the operators share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Norm = tuple[Tensor, Tensor] | bool | None
"""LayerNorm over channels: its weight and bias, True without them, or no norm."""


def autocast(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where it is on, as PyTorch's own operators take them."""
    if not torch.is_autocast_enabled(device.type):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    return tuple(t.to(dtype) if t.dtype in DTYPES[:3] else t for t in tensors)


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off where it is on; where it is not, nothing, which leaves no trace in an
    exported graph."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_window(operator: str, window: int) -> None:
    if window not in (4, 8, 16, 32):
        raise ValueError(f"{operator}: window must be 4, 8, 16 or 32, not {window}")


def check_eps(operator: str, eps: float) -> None:
    if not eps > 0:
        raise ValueError(f"{operator}: eps must be positive, not {eps}")


def check_floating(operator: str, **tensors: Tensor) -> None:
    for name, t in tensors.items():
        if t.dtype not in DTYPES:
            raise TypeError(
                f"{operator}: {name} must be float32, bfloat16, float16 or float64, not "
                f"{str(t.dtype).removeprefix('torch.')}"
            )


def check_same(operator: str, **tensors: Tensor) -> None:
    """The activations agree with the first in shape, dtype and device, and are (B, C, H, W)."""
    (first, like), *rest = tensors.items()
    if like.dim() != 4:
        raise ValueError(f"{operator}: {first} must be (B, C, H, W), not {tuple(like.shape)}")
    if like.shape[1] == 0:
        raise ValueError(f"{operator}: {first} has no channels: {tuple(like.shape)}")
    check_floating(operator, **tensors)
    for name, t in rest:
        for what, a, b in (
            ("shape", tuple(t.shape), tuple(like.shape)),
            ("dtype", t.dtype, like.dtype),
            ("device", t.device, like.device),
        ):
            if a != b:
                raise ValueError(f"{operator}: {name} must have {first}'s {what}, got {a} and {b}")


def check_parameters(
    operator: str,
    device: torch.device,
    parameters: Mapping[str, tuple[Tensor | None, tuple[int, ...]]],
) -> None:
    """The parameters that are given have these shapes and lie with the activations."""
    for name, (t, shape) in parameters.items():
        if t is None:
            continue
        if t.dtype not in DTYPES:
            check_floating(operator, **{name: t})
        if t.shape != shape:
            raise ValueError(f"{operator}: {name} must have shape {shape}, not {tuple(t.shape)}")
        if t.device != device:
            raise ValueError(f"{operator}: {name} is on {t.device}, the activations on {device}")


def of_norm(norm: Norm, channels: int) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """LayerNorm's weight and bias as ``check_parameters`` takes them."""
    if norm is None or isinstance(norm, bool):
        return {}
    weight, bias = norm
    return {"norm[0]": (weight, (channels,)), "norm[1]": (bias, (channels,))}


def check_matrix(operator: str, form: str, **matrices: Tensor) -> None:
    for name, t in matrices.items():
        if t.dim() != 2 or 0 in t.shape:
            raise ValueError(f"{operator}: {name} must be {form}, not {tuple(t.shape)}")


def check_heads(operator: str, temperature: Tensor, channels: int) -> None:
    if temperature.dim() != 1 or not temperature.numel() or channels % temperature.numel():
        raise ValueError(
            f"{operator}: temperature must be (heads,), heads a divisor of {channels} channels, "
            f"not {tuple(temperature.shape)}"
        )


def beside(
    operator: str, name: str, t: Tensor | None, like: Tensor, channels: int
) -> Tensor | None:
    """Another activation in autocast's dtype, which then fits ``like``, but for its channels."""
    if t is None:
        return None
    (t,) = autocast(like.device, t)
    batch, _, height, width = like.shape
    for what, a, b in (
        ("shape", tuple(t.shape), (batch, channels, height, width)),
        ("dtype", t.dtype, like.dtype),
        ("device", t.device, like.device),
    ):
        if a != b:
            raise ValueError(f"{operator}: {name} must have {what} {b}, not {a}")
    return t


def float_parameters(*parameters: Tensor | None) -> list[Tensor | None]:
    """As the kernels take them: contiguous float32."""
    return [None if p is None else p.float().contiguous() for p in parameters]


def matrix(t: Tensor, x: Tensor, runs: str) -> Tensor:
    """A matrix that x's channels are multiplied with, in float32. GPUs take any strides, and
    multiply in x's dtype: a matrix that has it, and is not trained, stays as it is."""
    if runs not in ("triton", "cuda"):
        return t.float().contiguous()
    return t if t.dtype == x.dtype and not t.requires_grad else t.float()


def converted(dtype: torch.dtype, *matrices: Tensor) -> list[Tensor]:
    """The matrices in this dtype: where they have another, in one launch for all of them."""
    found = [m if m.dtype == dtype else torch.empty_like(m, dtype=dtype) for m in matrices]
    new = [(to, m) for to, m in zip(found, matrices, strict=True) if to is not m]
    if new:
        torch._foreach_copy_([to for to, _ in new], [m for _, m in new])
    return found


def new_like(t: Tensor, channels: int | None = None) -> Tensor:
    """What the kernels return for t: dense, channels-last where t's channels are adjacent; with
    another number of channels if one is given."""
    layout = torch.channels_last if t.stride(1) == 1 else torch.contiguous_format
    shape = t.shape if channels is None else (t.shape[0], channels, *t.shape[2:])
    return torch.empty(shape, dtype=t.dtype, device=t.device, memory_format=layout)
