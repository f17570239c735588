"""pointwise_conv compared with PyTorch's LayerNorm, linear layer and sum, in one run.

C products and sums for each of N outputs; backward twice as many more. Forward moves C channels in
and N out, and N more with a residual; backward reads both and writes a gradient.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import pointwise_conv


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("part", ["norm", "residual"])
def test_pointwise_conv(
    benchmark: Any,
    part: str,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> None:
    """The first layer of GDFN, with a norm before it, and its last, with a residual after it."""
    batch, side = (1, 16) if quick else (16 if device.type == "cuda" else 1, 256)
    inner, outer = (48, 254) if part == "norm" else (127, 48)
    x = activation((batch, inner, side, side), device, dtype)
    leaves = [x, torch.randn(outer, inner, device=device) / inner**0.5]
    if part == "norm":
        leaves += [torch.ones(inner, device=device), torch.zeros(inner, device=device)]
    else:
        leaves.append(activation((batch, outer, side, side), device, dtype))

    def call(backend: str, x: Any, weight: Any, *more: Any) -> torch.Tensor:
        if part == "norm":
            return pointwise_conv(x, weight, norm=more, backend=backend)
        return pointwise_conv(x, weight, residual=more[0], backend=backend)

    backward = direction == "forward_backward"
    pixels = batch * side * side
    moved = inner + outer + (outer if part == "residual" else 0)
    measure(
        benchmark,
        "pointwise_conv",
        contender,
        direction,
        f"{batch}x{inner}x{side}x{side} to {outer}, {part}",
        leaves,
        call,
        pixels * (moved + (2 * inner + outer if backward else 0)) * x.element_size(),
        pixels * (3 if backward else 1) * 2 * inner * outer,
        quick,
    )
