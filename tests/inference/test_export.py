"""Networks as files for other programs, and what there is on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import moceir
from moceir.errors import ConfigError, WeightsError
from moceir.inference.export import export_onnx
from moceir.inference.info import machine_report
from moceir.model import MoCEIR, save_weights
from tests.published_weights import TINY


@pytest.mark.parametrize("expert_path", [False, True])
def test_the_same_picture_comes_out(tmp_path: Path, expert_path: bool) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'moceir[export]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = MoCEIR(TINY.replace(expert_path=expert_path)).eval()
    path = tmp_path / "new" / "network.onnx"
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


def test_weights_there_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = tmp_path / "a.safetensors"
    save_weights(MoCEIR(TINY), ours)
    made = moceir.convert_weights(str(ours), tmp_path / "b.ckpt")
    again = moceir.convert_weights(tmp_path / "b.ckpt", tmp_path / "c.safetensors")
    assert made.config == TINY
    for x, y in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(x, y)
    with pytest.raises(FileExistsError, match=r"b\.ckpt"):
        moceir.convert_weights(ours, tmp_path / "b.ckpt")
    with pytest.raises(ConfigError, match=r"b\.zip: the name must end in \.safetensors"):
        moceir.convert_weights(ours, tmp_path / "b.zip")
    with pytest.raises(WeightsError, match="not a file: name a published checkpoint"):
        moceir.convert_weights(tmp_path / "none.ckpt", tmp_path / "d.safetensors", preset="compact")


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_text("precious")
    with pytest.raises(FileExistsError):
        export_onnx(MoCEIR(TINY), tmp_path / "network.onnx", 8, 8)
    assert (tmp_path / "network.onnx").read_text() == "precious"


def test_what_there_is_on_this_machine() -> None:
    report = machine_report()
    for part in (moceir.__version__, "devices: cpu (", "bundled weights: compact", "fft_attention"):
        assert part in report
