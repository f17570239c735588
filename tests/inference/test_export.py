"""The exported network in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moceir.errors import ConfigError
from moceir.inference.export import export_onnx
from moceir.model import MoCEIR
from tests.published_weights import TINY


@pytest.mark.parametrize("expert_path", [False, True])
def test_the_same_picture_comes_out(tmp_path: Path, expert_path: bool) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'moceir[export]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = MoCEIR(TINY.replace(expert_path=expert_path)).eval()
    path = tmp_path / "network.onnx"
    export_onnx(model, path, 37, 45)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 37, 45)
    (restored,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = model(image)
    assert (torch.from_numpy(restored) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_sizes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size 0 x 8"):
        export_onnx(MoCEIR(TINY), tmp_path / "network.onnx", 8, 0)
