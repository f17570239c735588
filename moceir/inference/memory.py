"""Devices, and how much memory a network needs on them for an image."""

from __future__ import annotations

import torch

from moceir import machine
from moceir.config import MoCEIRConfig
from moceir.errors import ConfigError, TooLittleMemory, first_line
from moceir.inference import tiles

SHARE = 0.75
"""Share of the available memory that one picture may use; the rest is for everything else."""

AUTOMATIC_TILES = (1024, 768, 512, 384, 256)
"""Tile sizes tried, in turn, for a picture that does not fit into memory whole."""

_CPU = torch.device("cpu")


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of that name, after checking that it works; None: a CUDA GPU if there is one.

    Of GPUs it has a number: that of the current one, which may be another in another thread, if the
    name has none.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        nothing = torch.empty(0, device=torch.device(name))
        nothing.tolist()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # What torch raises for a name it does not know and for devices it was built without.
        reason = first_line(error).partition(". ")[0]
        raise ConfigError(f"device {str(name)!r} cannot be used: {reason}", "device") from None
    return nothing.device


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


def fitting_tile(
    config: MoCEIRConfig,
    images: tuple[int, int, int],
    device: torch.device,
    tile: int | None,
    overlap: int,
) -> tuple[int, list[str]]:
    """The first tile size to try (0: the whole image), and notes if it is not ``tile``.

    Args:
        images: their number, height and width.

    Raises:
        TooLittleMemory: not even the smallest tiles fit, or the whole image if ``tile`` is 0.
    """
    batch, height, width = images

    def need(size: int) -> int:
        sides = (height, width) if size == 0 else (min(size, height), min(size, width))
        return network_bytes(config, *sides, batch, device)

    if need(tile or 0) <= machine.SMALL:
        return tile or 0, []
    available = machine.available_bytes(device)
    if available is None:
        return (AUTOMATIC_TILES[-1] if tile is None else tile), (
            ["the amount of free memory is unknown on this system"] if tile is None else []
        )
    room = int(SHARE * available)
    numbers = (
        f"{width} x {height} as a whole needs about {machine.readable(need(0))}; "
        f"{machine.readable(available)} are free on {device}, of which one image may "
        f"use {machine.readable(room)}"
    )
    if need(tile or 0) <= room:
        return tile or 0, []
    if tile == 0:
        raise TooLittleMemory(numbers, "use tiles", "tile")
    candidates = [n for n in AUTOMATIC_TILES if n >= tiles.STEP + overlap and n < (tile or n + 1)]
    for size in candidates:
        if need(size) <= room:
            asked = f"tiles of {tile} are too large, " if tile else ""
            return size, [f"{numbers}: {asked}tiles of {size}"]
    smallest = min([*candidates, *([tile] if tile else [])], default=tiles.STEP + overlap)
    raise TooLittleMemory(
        f"{numbers}, and tiles of {smallest} need {machine.readable(need(smallest))}",
        "free some memory or choose another device",
        "device",
    )


def ran_out(error: RuntimeError | MemoryError) -> bool:
    """Whether an error is that memory has run out."""
    # By a CPU's operators; by the CUDA driver, Triton and Metal; by cuBLAS and its like. Only
    # PyTorch's own allocations on GPUs have a class of errors.
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    said = any(text in str(error) for text in words)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))
