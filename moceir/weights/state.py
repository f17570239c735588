"""Loading a state_dict into a network, completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moceir.errors import WeightsError


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy every tensor of ``state`` into ``model``, in the model's own dtype.

    Raises:
        WeightsError: as ``check_state``; the model is untouched.
    """
    check_state(model.state_dict(), state)
    model.load_state_dict(dict(state))


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Check that ``state`` can replace ``own``, which may be on the device ``meta``.

    Raises:
        WeightsError: a missing, surplus, misshapen or integer tensor, or one that is not finite.
    """
    problems = [f"missing {key}" for key in own if key not in state]
    for key, tensor in state.items():
        if key not in own:
            problems.append(f"surplus {key}")
        elif problem := misfit(key, tensor, own[key].shape):
            problems.append(problem)
    if problems:
        raise WeightsError.of_tensors(problems, "weights of another network or configuration")
    check_finite(state)


def misfit(key: str, tensor: Tensor, shape: torch.Size) -> str | None:
    """Why a tensor cannot be loaded into one of this shape, or None."""
    if tensor.shape != shape:
        return f"{key} has shape {tuple(tensor.shape)}, expected {tuple(shape)}"
    if tensor.layout is not torch.strided or tensor.is_meta:
        return f"{key} is sparse or has no data, expected an ordinary tensor"
    if not tensor.is_floating_point():
        return f"{key} has dtype {tensor.dtype}, expected floating point"
    return None


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for tensors with values that are NaN, infinite, or beyond float32."""
    broken = [key for key, tensor in state.items() if not tensor.float().isfinite().all()]
    if broken:
        raise WeightsError(
            f"{broken[0]} has values that are not finite"
            + (f", and so have {len(broken) - 1} more tensors" if len(broken) > 1 else "")
            + ": the run that made these weights diverged; use an earlier checkpoint"
        )
