"""One layer of complexity experts, mixed routes, as the published code dispatches it.

    python -m pytest bench -k grouped_experts --published FOLDER

The published layer gathers the images of each expert and loops over the experts; it is imported
from the clone that FOLDER names, and needs einops. The operator itself is in ``test_operators``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contenders import published_module
from bench.microbenchmark import DIRECTIONS, cost_of, images_and_side, measure, timed_samples
from tests.ops.samples import spec_of
from tests.ops.spec import Sample


def published_layer(folder: str, ours: Sample) -> Sample:
    """Their layer's weights and their dispatch, as they have it in training, on the images and
    routes of our sample."""
    net = published_module(Path(folder))
    x, shared = ours.tensors["x"], ours.tensors["shared"]
    layer = net.AdapterLayer(
        x.shape[1], rank=2, num_experts=4, top_k=1, depth_type="constant", rank_type="spread"
    )
    experts = layer.experts.to(x.device)
    expert = ours.raw(**ours.tensors)[2].flatten()
    gates = torch.nn.functional.one_hot(expert, 4).float()

    def call(backend: str, x: Tensor, shared: Tensor, **weights: Tensor) -> Tensor:
        dispatcher = net.SparseDispatcher(4, gates)
        inputs = zip(experts, dispatcher.dispatch(x), dispatcher.dispatch(shared), strict=True)
        return dispatcher.combine([expert(x, shared) for expert, x, shared in inputs])

    weights = dict(experts.named_parameters())
    return replace(ours, tensors={"x": x, "shared": shared, **weights}, call=call)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_grouped_experts(
    benchmark: Any,
    direction: str,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
    pytestconfig: pytest.Config,
) -> None:
    folder = pytestconfig.getoption("--published")
    if folder is None:
        pytest.skip("--published does not name a folder")
    if dtype != torch.float32:
        pytest.skip("the published layer is float32")
    (ours,) = timed_samples(spec_of("grouped_experts"), device, *images_and_side(device, quick))
    theirs, cost = published_layer(folder, ours), cost_of("grouped_experts", ours, ours.tensors)
    measure(
        benchmark,
        "grouped_experts",
        "published",
        direction,
        theirs,
        theirs.tensors,
        cost,
        quick,
    )
