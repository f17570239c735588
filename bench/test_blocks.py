"""The fused blocks of the network compared with their references in plain PyTorch, in one run.

As in a level of 48 channels. For each pixel GDFN with h = 2 C takes 6 C h + 36 h operations, MDTA
8 C^2 + 54 C + 2 C^2 / heads, the cross attention's keys and values 4 C^2 + 196 C; backward twice as
many more. Forward moves x and the output (MDTA also v, written and read, and the residual);
backward reads x and the gradient and writes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import gated_feedforward, projected_depthwise_conv, transposed_attention

C, HEADS = 48, 2  # channels


def gdfn(backend: str, x: Tensor, w_in: Tensor, dw: Tensor, w_out: Tensor, *norm: Tensor) -> Tensor:
    return gated_feedforward(x, w_in, dw, w_out, norm=norm, backend=backend)


def mdta(backend: str, x: Tensor, qkv: Tensor, dw: Tensor, out: Tensor, *more: Tensor) -> Tensor:
    temperature, *norm = more
    return transposed_attention(
        x, qkv, dw, temperature, out, norm=tuple(norm), residual=x, backend=backend
    )


def key_value(backend: str, x: Tensor, weight: Tensor, dw: Tensor, *norm: Tensor) -> Tensor:
    return projected_depthwise_conv(x, weight, dw, norm=norm, backend=backend)


# The function, the shapes of its weights, its operations for a pixel, activations moved by it.
BLOCKS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]], float, float]] = {
    "gated_feedforward": (
        gdfn,
        [(4 * C, C), (4 * C, 1, 3, 3), (C, 2 * C), (C,), (C,)],
        6 * C * 2 * C + 36 * 2 * C,
        2,
    ),
    "transposed_attention": (
        mdta,
        [(3 * C, C), (3 * C, 1, 3, 3), (C, C), (HEADS,), (C,), (C,)],
        8 * C**2 + 54 * C + 2 * C**2 / HEADS,
        5,
    ),
    "projected_depthwise_conv": (
        key_value,
        [(2 * C, C), (2 * C, 1, 7, 7), (C,), (C,)],
        4 * C**2 + 196 * C,
        3,
    ),
}


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("operator", BLOCKS)
def test_block(
    benchmark: Any,
    operator: str,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    call, shapes, operations, moved = BLOCKS[operator]
    batch, side = (1, 16) if quick else (16 if device.type == "cuda" else 1, 256)
    x = activation((batch, C, side, side), device, dtype)
    weights = [torch.randn(shape, device=device) / max(1, shape[-1]) ** 0.5 for shape in shapes]
    backward = direction == "forward_backward"
    pixels = batch * side * side
    measure(
        benchmark,
        operator,
        contender,
        direction,
        f"{batch}x{C}x{side}x{side}",
        [x, *weights],
        call,
        pixels * C * (moved + (3 if backward else 0)) * x.element_size(),
        pixels * (3 if backward else 1) * operations,
        quick,
    )
