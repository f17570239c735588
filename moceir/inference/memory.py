"""Devices, and how much memory a network needs on them for an image."""

from __future__ import annotations

import torch

from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError, first_line

SHARE = 0.75
"""Share of the available memory that one picture may use; the rest is for everything else."""

_CPU = torch.device("cpu")


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of that name, after checking that it works; None: a CUDA GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # What torch raises for a name it does not know and for devices it was built without.
        reason = first_line(error)
        raise ConfigError(f"device {str(name)!r} cannot be used: {reason}", "device") from None
    return device


def network_bytes(
    config: MoCEIRConfig, height: int, width: int, batch: int = 1, device: torch.device = _CPU
) -> int:
    """Upper estimate of the peak memory of a batch's activations, in bytes.

    The peak is in a decoder block at full resolution, which holds the block's input, the shared
    features, the queries, keys and values of the cross attention or its result, and the input of
    the level. A GPU also holds all of an expert's queries, keys and values, or the hidden features
    of the feed-forward network, of which a CPU holds only a few rows. The factors are fitted to
    measurements (docs/restore.md, docs/performance.md). bfloat16 and float16 need less, which the
    estimate ignores.
    """
    channels = config.dims[0]
    # With expert_path also the normalised shared features, and what the experts change.
    extra = 2 * channels if config.expert_path else 0
    floats = 6.5 * channels + extra
    if device.type != "cpu":
        experts = 6.0 * channels + extra + 3 * max(config.ranks(0))
        floats = max(floats, experts, (2.5 + 3 * config.ffn_expansion) * channels)
    padded = (height + -height % config.cell) * (width + -width % config.cell)
    return int(4 * floats * padded) * batch + 32 * 2**20


def ran_out(error: RuntimeError | MemoryError) -> bool:
    """Whether an error is that memory has run out."""
    said = "can't allocate memory" in str(error)  # by a CPU's operators
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))
