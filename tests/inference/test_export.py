"""Networks as files for other programs, and what there is on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import moceir
from moceir.errors import ConfigError, WeightsError
from moceir.inference import export
from moceir.inference.export import export_onnx, export_pt2
from moceir.inference.info import machine_report
from moceir.model import MoCEIR, save_weights
from tests.published_weights import TINY
from tests.small_network import SMALLEST

SIZES = ((1, 64, 96), (3, 37, 45), (1, 1, 1), (3, 4, 130), (1, 200, 131))
"""Batch, height and width: whole cells, ragged, less than a cell, one and several windows."""


NETWORK = SMALLEST.replace(num_blocks=(1, 1, 1), num_dec_blocks=(1, 1), heads=(1, 1, 1))


def run_onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (image,), (restored,) = session.get_inputs(), session.get_outputs()
    assert image.shape == restored.shape == ["batch", 3, "height", "width"]
    return lambda x: torch.from_numpy(session.run(["restored"], {"image": x.numpy()})[0])


def run_pt2(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.export.load(path).module()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_same_images_come_out_at_every_size(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    # The expert path has one operation more, which ONNX must have, too.
    model = MoCEIR(NETWORK.replace(expert_path=kind == "onnx")).eval()
    path = tmp_path / "new" / f"network.{kind}"
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="pip install 'moceir[export]'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = (export_onnx if kind == "onnx" else export_pt2)(model, path)
    assert exported.path == path and exported.difference <= 1e-5
    assert capfd.readouterr() == ("", "")
    restore = (run_onnx if kind == "onnx" else run_pt2)(path)
    for batch, height, width in SIZES:
        image = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            expected = model(image).clamp(0, 1)
            restored = restore(image)
        assert restored.shape == image.shape
        assert (restored - expected).abs().max() <= 1e-5, (batch, height, width)


def test_a_file_that_restores_another_image_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(export, "_recorded", lambda network: None)
    monkeypatch.setattr(torch.export, "save", lambda program, file: None)
    monkeypatch.setattr(
        torch.export, "load", lambda file: torch.nn.Sequential(torch.nn.Hardswish())
    )
    monkeypatch.setattr(torch.nn.Sequential, "module", lambda self: self, raising=False)
    with pytest.raises(ConfigError, match=r"1 images of 96 x 64 .* differs .* was not written"):
        export_pt2(MoCEIR(TINY).eval(), tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


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
    for write in (export_onnx, export_pt2):
        with pytest.raises(FileExistsError):
            write(MoCEIR(TINY), tmp_path / "network.onnx")
    assert (tmp_path / "network.onnx").read_text() == "precious"


def test_what_there_is_on_this_machine() -> None:
    report = machine_report()
    for part in (moceir.__version__, "devices: cpu (", "bundled weights: compact", "fft_attention"):
        assert part in report
