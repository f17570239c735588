"""A state_dict into a network, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from moceir.errors import WeightsError


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy every tensor of ``state`` into ``model``, in the model's own dtype.

    Raises:
        WeightsError: a missing, surplus, misshapen or integer tensor; the model is untouched.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    for key, tensor in state.items():
        if key not in own:
            problems.append(f"surplus {key}")
        elif tensor.shape != own[key].shape:
            problems.append(
                f"{key} has shape {tuple(tensor.shape)}, expected {tuple(own[key].shape)}"
            )
        elif not tensor.is_floating_point():
            problems.append(f"{key} has dtype {tensor.dtype}, expected floating point")
    if problems:
        raise WeightsError.of_tensors(problems, "weights of another network or configuration")
    model.load_state_dict(dict(state))
