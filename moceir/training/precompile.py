r"""The work of a network, for ``moce_kernels.precompile``.

``moceir precompile`` is the command. ``python -m moce_kernels.precompile`` knows no networks and
takes one from here:

    python -m moce_kernels.precompile moceir.training.precompile:network moce_ir_s \
        1x3x720x1280 --arch 9.0
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from moce_kernels.precompile import Compiled, capability, precompile
from moceir.config import PRECISIONS, MoCEIRConfig, preset
from moceir.errors import ConfigError
from moceir.model import MoCEIR
from moceir.model.folded import folded
from moceir.training.loss import restoration_loss

PRODUCTS = ("default", "tf32", "ieee")
"""How products of float32 may be computed, see ``float32_products``."""


def precompile_network(
    config: MoCEIRConfig,
    shape: tuple[int, ...] = (1, 3, 720, 1280),
    dtypes: Sequence[str] = ("float32",),
    products: Sequence[str] = ("default",),
    *,
    train: bool = False,
    arch: str | None = None,
    jobs: int | None = None,
    library: bool | None = None,
) -> Compiled:
    """Compile a network's Triton kernels into Triton's cache, so that no first call has to.

    It needs no GPU.

    Args:
        config: of the network.
        shape: of a batch, (B, 3, H, W). Kernels differ with the sizes.
        dtypes: of the activations, some of ``PRECISIONS``.
        products: some of ``PRODUCTS``, for float32.
        train: a training step instead of an inference.
        arch: compute capability, such as ``9.0``; None: that of the GPU here.
        jobs: processes; None: one for each CPU.
        library: for machines with the CUDA library, which take fewer kernels from Triton, or
            without; None: for both.

    Raises:
        ConfigError: an unknown dtype; a kernel that does not compile.
        ValueError: no ``arch`` and no GPU; an ``arch`` that is none.
    """
    for dtype in dtypes:
        if dtype not in PRECISIONS:
            raise ConfigError(f"dtype {dtype!r}: choose {', '.join(PRECISIONS)}", "dtypes")
    try:
        target = capability(arch)
        works = [
            (network_work(config, shape, getattr(torch, dtype), train), how)
            for dtype, how in itertools.product(dtypes, products)
            if dtype == "float32" or how == products[0]
        ]

        def work() -> None:
            for call, how in works:
                with float32_products(how):
                    call()

        return precompile(work, target, jobs, library)
    except RuntimeError as error:
        raise ConfigError(str(error)) from error


def network(
    name: str, shape: str, dtype: str = "float32", direction: str = "inference"
) -> Callable[[], None]:
    """``network_work`` of a preset, from words; ``direction`` is ``inference`` or ``train``."""
    if dtype not in PRECISIONS:
        raise ConfigError(f"dtype {dtype!r}: choose {', '.join(PRECISIONS)}", "dtypes")
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
    if not train:
        model = folded(model, dtype)

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
        raise ConfigError(
            f"shape {text!r}: give images x 3 x height x width, such as 1x3x720x1280", "shape"
        )
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
