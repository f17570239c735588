"""Networks and classical methods behind one interface."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moceir import __version__
from moceir.errors import ConfigError
from moceir.evaluation.peers import Peer, find_peer, versions
from moceir.inference.restorer import Restorer
from moceir.weights.bundled import SPECIALISTS, TOGETHER

PREFIX = "peer:"
"""What the names of classical methods begin with, where they stand for weights."""


class Result(NamedTuple):
    """A restored picture, (3, H, W) float32 in [0, 1] on the CPU; how it was tiled, 0: not; and the
    expert, 1 the cheapest, of each decoder block, none of a classical method."""

    image: Tensor
    tile: int
    experts: tuple[int, ...]


@dataclass(frozen=True)
class Method:
    """A network or a classical method.

    Args:
        name: as the user gave it, or that of the bundled weights.
        restore: ``(image, sigma, tile) -> Result``; (3, H, W) float32 in [0, 1] on the CPU. sigma:
            of its noise on the 0..255 scale where it is known, else None. tile: as for
            ``Restorer``. Raises PictureError for a picture that the method cannot take.
        device: where it runs.
        environment: what produced the numbers: versions, device, network.
        peer: the classical method; None: a network.
    """

    name: str
    restore: Callable[[Tensor, float | None, int | None], Result]
    device: torch.device
    environment: dict[str, Any]
    peer: Peer | None = None

    def is_for(self, kinds: Collection[str], sigma: float | None) -> bool:
        """Whether it is meant for images with all of these kinds; with none: for clean images."""
        if self.peer is None:
            return True
        return set(kinds) <= set(self.peer.kinds) and not (self.peer.knows_sigma and sigma is None)


def find_method(
    name: str | Path | None = None, device: str | None = None, precision: str | None = None
) -> Method:
    """The method of that name.

    Args:
        name: ``peer:`` and a name of ``PEERS``; else what ``Restorer`` takes.
        device, precision: as for ``Restorer``.

    Raises:
        ConfigError: no such classical method, a package that it needs is missing, or it was given
            a device or precision; or as ``Restorer``.
        WeightsError: weights that cannot be used.
    """
    if name is None or not str(name).startswith(PREFIX):
        return network(Restorer(name, device, precision), str(name or TOGETHER))
    name = str(name)
    if device not in (None, "cpu") or precision is not None:
        raise ConfigError(f"{name} runs on the CPU in float64: omit the device and the precision")
    peer = find_peer(name.removeprefix(PREFIX))

    def restore(image: Tensor, sigma: float | None, tile: int | None) -> Result:
        if tile:
            raise ConfigError(f"{name} needs whole images: omit the tile", "tile")
        if peer.knows_sigma and sigma is None:
            raise ConfigError(f"{name} needs to know sigma: choose another method")
        return Result(peer.restore(image, sigma), 0, ())

    about = {**_versions(), **versions(peer), "device": "cpu", "precision": "float64"}
    return Method(name, restore, torch.device("cpu"), about, peer)


def network(restorer: Restorer, name: str = "network") -> Method:
    """A network as a method."""

    def restore(image: Tensor, sigma: float | None, tile: int | None) -> Result:
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        restored, run = restorer.restore_pixels(pixels, tile=tile)
        return Result(torch.from_numpy(restored).permute(2, 0, 1), run.tile, run.experts)

    device = restorer.device
    cuda = device.type == "cuda"
    about = {
        **_versions(),
        "device": (
            torch.cuda.get_device_name(device) if cuda else f"{device}, threads: {restorer.threads}"
        ),
        "backend": restorer.backend,
        "precision": restorer.precision,
        "networks": 1 if restorer.specialists is None else 1 + len(SPECIALISTS),
        "parameters": restorer.parameters,
        "network": restorer.model.config.to_dict(),
    }
    return Method(name, restore, device, about)


def _versions() -> dict[str, str]:
    return {
        "moceir": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
