"""Weights files in spandrel's own ModelLoader, which chaiNNer and ComfyUI use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip(
    "spandrel", reason="check.sh installs it: pip install --no-deps spandrel==0.4.2"
)

from spandrel import (
    MAIN_REGISTRY,
    ArchRegistry,
    ImageModelDescriptor,
    ModelLoader,
    UnsupportedDtypeError,
    UnsupportedModelError,
)

from moceir import Restorer
from moceir.config import MoCEIRConfig
from moceir.errors import WeightsError
from moceir.integrations import spandrel
from moceir.model import MoCEIR, load_model, save_published, save_weights
from moceir.model.load import to_published
from moceir.weights.bundled import bundled_path
from tests.published_weights import TINY
from tests.small_network import SMALLEST


@pytest.fixture(scope="module")
def loader() -> ModelLoader:
    """With every architecture that spandrel has, and then ours, as for its users."""
    registry = MAIN_REGISTRY.copy()
    spandrel.install(registry)
    return ModelLoader("cpu", registry)


@pytest.fixture(scope="module")
def model() -> MoCEIR:
    torch.manual_seed(0)
    return MoCEIR(TINY).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 37, 51, generator=torch.Generator().manual_seed(0))


def check(loaded: object, model: MoCEIR, image: torch.Tensor) -> None:
    """That it gives what the network gives, to the last bit."""
    assert isinstance(loaded, ImageModelDescriptor)
    assert isinstance(loaded.model, MoCEIR) and not loaded.model.training
    assert (loaded.architecture.id, loaded.purpose, loaded.scale) == ("MoCEIR", "Restoration", 1)
    with torch.inference_mode():
        expected = model(image).clamp(0, 1)
    assert torch.equal(loaded(image), expected)


def test_the_bundled_weights(loader: ModelLoader, image: torch.Tensor) -> None:
    loaded = loader.load_from_file(bundled_path("compact"))
    check(loaded, load_model("compact"), image)
    assert isinstance(loaded, ImageModelDescriptor)
    assert torch.equal(loaded(image), Restorer("compact", "cpu")(image))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.ckpt"])
def test_files(
    loader: ModelLoader, model: MoCEIR, image: torch.Tensor, tmp_path: Path, name: str
) -> None:
    """Ours, and the published layout: bare, and in a Lightning checkpoint after ``net.``"""
    path = tmp_path / name
    (save_weights if path.suffix == ".safetensors" else save_published)(model, path)
    check(loader.load_from_file(path), model, image)


@pytest.mark.parametrize("prefix", ["", "net.", "module."])
@pytest.mark.parametrize("published", [True, False])
def test_prefixes(
    loader: ModelLoader,
    model: MoCEIR,
    image: torch.Tensor,
    tmp_path: Path,
    prefix: str,
    published: bool,
) -> None:
    state = to_published(model) if published else model.state_dict()
    path = tmp_path / "a.safetensors"
    save_file({prefix + key: tensor.contiguous() for key, tensor in state.items()}, path)
    check(loader.load_from_file(path), model, image)


@pytest.mark.parametrize(
    "config",
    [SMALLEST, TINY.replace(num_experts=3), TINY.replace(expert_path=True, ffn_expansion=2.5)],
)
def test_the_configuration_is_read_off_our_tensors(
    loader: ModelLoader, image: torch.Tensor, config: MoCEIRConfig
) -> None:
    torch.manual_seed(0)
    model = MoCEIR(config).eval()
    check(loader.load_from_state_dict(model.state_dict()), model, image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_alone(loader: ModelLoader, model: MoCEIR, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedDtypeError):
        loader.load_from_state_dict(model.state_dict()).to(dtype)


def test_installing_twice_changes_nothing() -> None:
    registry = ArchRegistry()
    spandrel.install(registry)
    spandrel.install(registry)
    assert [support.architecture.name for support in registry] == ["MoCE-IR"]


def test_what_does_not_fit_is_named(loader: ModelLoader, model: MoCEIR) -> None:
    state = dict(model.state_dict())
    del state["output.weight"]
    with pytest.raises(WeightsError, match=r"missing output\.weight"):
        loader.load_from_state_dict(state)
    with pytest.raises(UnsupportedModelError):  # another network's names are left to others
        loader.load_from_state_dict({"stem.weight": torch.zeros(16, 3, 3, 3)})
