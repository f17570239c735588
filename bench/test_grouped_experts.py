"""One layer of complexity experts, mixed routes, against the reference and the published dispatch.

    python -m pytest bench/test_grouped_experts.py --published FOLDER

The published layer gathers the images of each expert and loops over the experts; it is imported
from the clone that FOLDER names, and needs einops. An expert of rank r on C channels takes
2 (3 C r + 4 r^2 + 107 r) operations for each pixel and r (15 log2 P + 11) for its FFT attention;
backward twice as many more. Forward moves x, shared and the output; backward reads three and
writes two.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.compare import published_module
from bench.microbenchmark import CONTENDERS, DIRECTIONS, activation, measure
from moce_kernels import (
    ExpertWeights,
    expert_weight_shapes,
    grouped_experts,
    routing_plan,
)

WINDOWS = (4, 8, 16, 32)


def published_layer(folder: str, dim: int, gates: Tensor) -> tuple[list[Tensor], Any]:
    """Their layer's weights and their dispatch, as they have it in training."""
    net = published_module(Path(folder))
    layer = net.AdapterLayer(
        dim, rank=2, num_experts=4, top_k=1, depth_type="constant", rank_type="spread"
    )
    experts = layer.experts.to(gates.device)

    def call(backend: str, x: Tensor, shared: Tensor, *weights: Tensor) -> Tensor:
        dispatcher = net.SparseDispatcher(4, gates)
        inputs = zip(experts, dispatcher.dispatch(x), dispatcher.dispatch(shared), strict=True)
        return dispatcher.combine([expert(x, shared) for expert, x, shared in inputs])

    return list(experts.parameters()), call


@pytest.mark.parametrize("contender", [*CONTENDERS, "published"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_grouped_experts(
    benchmark: Any,
    direction: str,
    contender: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
    pytestconfig: pytest.Config,
) -> None:
    batch, dim, side = (4, 16, 16) if quick else (32 if device.type == "cuda" else 8, 64, 64)
    ranks = [dim // 8, dim // 4, dim // 2, dim]
    x, shared = (activation((batch, dim, side, side), device, dtype) for _ in range(2))
    expert = torch.arange(batch, device=device) % 4  # mixed routes, as many images for each
    logits = torch.nn.functional.one_hot(expert, 4).float()
    backward = direction == "forward_backward"
    operations = sum(
        2 * (3 * dim * r + 4 * r * r + 107 * r) + r * (15 * math.log2(w) + 11)
        for r, w in zip(ranks, WINDOWS, strict=True)
    )
    if contender == "published":
        folder = pytestconfig.getoption("--published")
        if folder is None:
            pytest.skip("--published does not name a folder")
        if dtype != torch.float32:
            pytest.skip("the published layer is float32")
        weights, call = published_layer(folder, dim, logits)
    else:
        weights = [
            torch.randn(shape, device=device) / 8
            for shape in expert_weight_shapes(dim, ranks).values()
        ]
        plan = routing_plan(logits, 1, backend="reference")

        def call(backend: str, x: Tensor, shared: Tensor, *weights: Tensor) -> Tensor:
            return grouped_experts(
                x, shared, plan, ExpertWeights(*weights), ranks, WINDOWS, backend=backend
            )

    measure(
        benchmark,
        "grouped_experts",
        contender,
        direction,
        f"{batch}x{dim}x{side}x{side}, a quarter to each of 4 experts",
        [x, shared, *weights],
        call,
        (8 if backward else 3) * x.numel() * x.element_size(),
        (3 if backward else 1) * operations / 4 * batch * side * side,
        quick,
    )
