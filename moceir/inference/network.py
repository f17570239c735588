"""The network as ``Restorer`` calls it: on a GPU folded, and replayed from graphs.

Hooks that are put on its modules afterwards do not run there.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from moceir.inference.graphs import Replayed
from moceir.model import MoCEIR
from moceir.model.folded import Folded


class Network:
    """A network on its device.

    Args:
        model: on the device, in evaluation mode.
        precision: that is called for as a rule: its graphs are kept.
    """

    def __init__(self, model: MoCEIR, device: torch.device, precision: str) -> None:
        self._model, self._device, self._precision = model, device, precision
        self._folded = None  # on a CPU launches cost nothing
        # What computes its weights anew at every call cannot be folded once.
        if device.type == "cuda" and not any(map(is_parametrized, model.modules())):
            self._folded = Folded(model, getattr(torch, precision))
        self.graphs = Replayed(functools.partial(self._run, precision=precision))

    def __call__(self, images: Tensor, precision: str, replay: bool = True) -> tuple[Tensor, ...]:
        """(B, 3, H, W) restored, float32, not clamped, of images in [0, 1] on the device; (B, D)
        each image's expert of each block, from 1.

        replay: whether graphs may be made for these images, and used.
        """
        # What is made of the weights, and read by graphs, follows them.
        if self._folded is not None and self._folded.refresh():
            self.graphs.release()
        if replay and self._folded is not None and precision == self._precision:
            return self.graphs(images)
        return self._run(images, precision)

    def _run(self, images: Tensor, precision: str) -> tuple[Tensor, ...]:
        dtype, model = getattr(torch, precision), self._model
        if self._folded is not None and precision == self._precision:
            model = self._folded.network
        with torch.autocast(self._device.type, dtype, enabled=dtype is not torch.float32):
            restored, routing = model(images, return_routing=True)
        return restored.float(), routing.expert[:, :, 0].T + 1
