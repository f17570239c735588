"""The node in ComfyUI's terms, with stand-ins for the few functions of ComfyUI that it calls."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip(
    "spandrel", reason="check.sh installs it: pip install --no-deps spandrel==0.4.2"
)

from spandrel import MAIN_REGISTRY

from moceir import Restorer
from moceir.errors import ConfigError
from moceir.model import load_model, save_published
from moceir.weights.bundled import BUNDLED
from tests.small_network import restorer, weights

__all__ = ["restorer", "weights"]

ROOT = Path(__file__).parents[2]


class Interrupted(Exception):
    """What ComfyUI raises when a user stops a workflow."""


class Comfy:
    """The stand-ins, and what was asked of them."""

    def __init__(self, models: Path) -> None:
        self.freed: list[int] = []
        self.done = 0
        self.stop_after: int | None = None
        self.folders: dict[str, str] = {}
        self.models = models

    def modules(self) -> dict[str, ModuleType]:
        management = ModuleType("comfy.model_management")
        vars(management).update(
            get_torch_device=lambda: torch.device("cpu"),
            free_memory=lambda need, device: self.freed.append(need),
            throw_exception_if_processing_interrupted=self.interrupted,
        )
        utils = ModuleType("comfy.utils")
        vars(utils).update(ProgressBar=lambda total: self)
        comfy = ModuleType("comfy")
        vars(comfy).update(model_management=management, utils=utils)
        paths = ModuleType("folder_paths")
        vars(paths).update(
            models_dir=str(self.models),
            add_model_folder_path=self.folders.__setitem__,
            get_filename_list=lambda name: sorted(
                path.name for path in Path(self.folders[name]).iterdir()
            ),
            get_full_path_or_raise=lambda name, file: str(Path(self.folders[name], file)),
        )
        return {
            "comfy": comfy,
            "comfy.model_management": management,
            "comfy.utils": utils,
            "folder_paths": paths,
        }

    def interrupted(self) -> None:
        if self.done == self.stop_after:
            raise Interrupted

    def update(self, number: int) -> None:
        self.done += number


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    (tmp_path / "moceir").mkdir()
    comfy = Comfy(tmp_path)
    for name, module in comfy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "moceir.integrations.comfyui", raising=False)
    return comfy


@pytest.fixture
def node(comfy: Comfy) -> Any:
    """The node of the folder that users copy, loaded as ComfyUI loads it."""
    init = ROOT / "integrations/comfyui/__init__.py"
    spec = importlib.util.spec_from_file_location("custom_nodes_moce_ir", init)
    assert spec and spec.loader
    folder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(folder)
    assert folder.NODE_DISPLAY_NAME_MAPPINGS == {"MoCEIRRestore": "MoCE-IR Restore"}
    return folder.NODE_CLASS_MAPPINGS["MoCEIRRestore"]


def images(number: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.rand(number, 16, 24, channels, generator=torch.Generator().manual_seed(0))


def run(node: Any, image: torch.Tensor, weights: str, **inputs: Any) -> torch.Tensor:
    """As ComfyUI runs a node: by the names it declares, with their defaults."""
    declared = node.INPUT_TYPES()["required"]
    optional = {name: inputs.pop(name) for name in list(inputs) if name not in declared}
    parameters = inspect.signature(node.restore).parameters
    for name in node.INPUT_TYPES()["optional"]:  # which ComfyUI may leave out
        assert parameters[name].default is not parameters[name].empty
    for name, value in optional.items():
        assert value in node.INPUT_TYPES()["optional"][name][0]
    given = {"image": image, "weights": weights, **inputs}
    for name, (kind, *options) in declared.items():
        if kind in ("FLOAT", "INT"):
            given.setdefault(name, options[0]["default"])
    assert given.keys() == declared.keys() and weights in declared["weights"][0]
    with torch.inference_mode():
        results = getattr(node(), node.FUNCTION)(**given, **optional)
    assert node.RETURN_TYPES == ("IMAGE",) and len(results) == 1
    return results[0]


def test_a_batch_is_restored(node: Any, comfy: Comfy) -> None:
    image = images()
    restored = run(node, image, "compact")
    assert restored.shape == image.shape and restored.dtype == torch.float32
    expected = Restorer("compact", "cpu")
    for one, result in zip(image, restored, strict=True):
        assert np.array_equal(result.numpy(), expected.restore_pixels(one.numpy())[0])
    assert comfy.done == 2 and comfy.freed[0] > 32 * 2**20


def test_what_is_removed(node: Any) -> None:
    image = images(1)
    expected = Restorer("compact", "cpu")
    for remove, only in (("everything", None), ("found", "found"), ("noise", "noise")):
        restored = run(node, image, "compact", remove=remove)
        alone, _ = expected.restore_pixels(image[0].numpy(), only=only)
        assert np.array_equal(restored[0].numpy(), alone)


def test_specialists_come_first(node: Any) -> None:
    image = images(1)
    expected, _ = Restorer(device="cpu").restore_pixels(image[0].numpy())
    assert node.INPUT_TYPES()["required"]["weights"][0][0] == "specialists"
    assert np.array_equal(run(node, image, "specialists")[0].numpy(), expected)


def test_weights_in_the_models_folder(
    node: Any, comfy: Comfy, weights: Path, restorer: Restorer
) -> None:
    folder = comfy.models / "moceir"
    (folder / "ours.safetensors").write_bytes(weights.read_bytes())
    save_published(load_model(weights), folder / "published.ckpt")
    save_published(load_model(weights), folder / "state.pt")
    (folder / "notes.txt").touch()
    choices = node.INPUT_TYPES()["required"]["weights"][0]
    files = ["ours.safetensors", "published.ckpt", "state.pt"]
    assert choices == ["specialists", *BUNDLED, *files]
    image = images(1)
    expected = restorer.restore_pixels(image[0].numpy())[0]
    for name in files:
        assert np.array_equal(run(node, image, name)[0].numpy(), expected)


def test_changed_weights_are_read_again(node: Any, comfy: Comfy, weights: Path) -> None:
    path = comfy.models / "moceir/mine.safetensors"
    path.write_bytes(weights.read_bytes())
    first = run(node, images(1), "mine.safetensors")
    path.write_bytes((ROOT / "moceir/weights/compact.safetensors").read_bytes())
    assert not torch.equal(run(node, images(1), "mine.safetensors"), first)


def test_alpha_strength_and_values_out_of_range(node: Any) -> None:
    image = images(1, channels=4) * 1.5 - 0.25
    restored = run(node, image, "compact", strength=0.0)
    assert torch.equal(restored, image.clamp(0, 1))
    half = run(node, image, "compact", strength=0.5)
    assert torch.equal(half[..., 3], restored[..., 3]) and not torch.equal(half, restored)


def test_tiles(node: Any) -> None:
    with pytest.raises(ConfigError, match="tile 64 is too small"):
        run(node, images(1), "compact", tile=64)
    assert run(node, images(1), "compact", tile=256).shape == (1, 16, 24, 3)


def test_a_workflow_can_be_stopped(node: Any, comfy: Comfy) -> None:
    comfy.stop_after = 1
    with pytest.raises(Interrupted):
        run(node, images(3), "compact")
    assert comfy.done == 1


def test_upscale_model_loaders_know_it_too(node: Any) -> None:
    assert "MoCEIR" in MAIN_REGISTRY
