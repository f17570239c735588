r"""The work of a network, for ``moce_kernels.precompile``.

``moceir precompile`` is the command. ``python -m moce_kernels.precompile`` knows no networks and
takes one from here:

    python -m moce_kernels.precompile moceir.training.precompile:network moce_ir_s \
        1x3x720x1280 --arch 9.0
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from moceir.config import MoCEIRConfig, preset
from moceir.errors import ConfigError
from moceir.model import MoCEIR
from moceir.training.loss import restoration_loss

DTYPES = ("float32", "bfloat16", "float16")


def network(
    name: str, shape: str, dtype: str = "float32", direction: str = "inference"
) -> Callable[[], None]:
    """``network_work`` of a preset, from words; ``direction`` is ``inference`` or ``train``."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: choose {', '.join(DTYPES)}")
    if direction not in ("inference", "train"):
        raise ConfigError(f"direction {direction!r}: choose inference or train")
    return network_work(
        preset(name), batch_shape(shape), getattr(torch, dtype), direction == "train"
    )


def network_work(
    config: MoCEIRConfig, shape: tuple[int, ...], dtype: torch.dtype, train: bool
) -> Callable[[], None]:
    """One call of a network as ``Restorer`` or ``train`` makes it, but for the CPU.

    Args:
        config: of the network.
        shape: of the images, (B, 3, H, W).
        dtype: float32, or what autocast computes in.
        train: forward, loss and backward instead of an inference.
    """
    model = MoCEIR(config).train(train)

    def call() -> None:
        images = torch.empty(shape)
        with (
            torch.inference_mode(not train),
            torch.autocast("cpu", dtype, enabled=dtype is not torch.float32),
        ):
            restored, routing = model(images, return_routing=True)
        if train:
            restoration_loss(restored, images, routing.aux_loss).backward()
            model.zero_grad(set_to_none=True)

    return call


def batch_shape(text: str) -> tuple[int, ...]:
    """(B, 3, H, W) of "BxCxHxW"; raises ConfigError."""
    sizes = text.split("x")
    if len(sizes) != 4 or not all(s.isdigit() and int(s) for s in sizes) or sizes[1] != "3":
        raise ConfigError(f"shape {text!r}: give images x 3 x height x width, such as 1x3x720x1280")
    return tuple(map(int, sizes))


@contextlib.contextmanager
def float32_products(how: str) -> Iterator[None]:
    """How products of float32 are computed: ``tf32``, ``ieee``, or ``default``, where PyTorch is
    told nothing."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "none" if how == "default" else how
    try:
        yield
    finally:
        matmul.fp32_precision = before
