"""The network as an ONNX file, for other runtimes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from moce_kernels import use_backends
from moceir.errors import ConfigError
from moceir.files import whole_file
from moceir.model import MoCEIR
from moceir.model.experts import ExpertBank


def export_onnx(model: MoCEIR, path: Path, height: int, width: int) -> None:
    """Write the network for one picture of this size, (1, 3, height, width) float32 in [0, 1], as
    ONNX; the result has the same shape and is not clamped.

    ONNX has neither windowed Fourier transforms nor route-dependent dispatch, so the graph is
    that of the reference backend and computes all experts (``ExpertBank.every``).

    Raises:
        ConfigError: a size below 1, or the packages of ``moceir[export]`` are missing.
        OSError: the file cannot be written.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"size {width} x {height}: give at least 1 x 1")
    try:
        from onnxscript import opset18, optimizer
    except ImportError:
        raise ConfigError(
            "the ONNX exporter is not installed: pip install 'moceir[export]'"
        ) from None

    def sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        # Of equal values TopK, too, has the one with the lower index first.
        operators: Any = opset18  # whose types know no list for a constant
        count = operators.Gather(operators.Shape(values), [dim])
        return operators.TopK(values, count, axis=dim, largest=int(descending))

    model = copy.deepcopy(model).cpu().float().eval()
    for module in model.modules():
        if isinstance(module, ExpertBank):
            module.every = True
    image = torch.zeros(1, 3, height, width)
    with use_backends("reference"), torch.no_grad(), whole_file(path) as temporary:
        program = torch.onnx.export(
            model,
            (image,),
            dynamo=True,
            input_names=["image"],
            output_names=["restored"],
            optimize=False,
            custom_translation_table={torch.ops.aten.sort.stable: sort},
        )
        assert program is not None  # dynamo=True returns one
        # The rest of what ``optimize`` does takes minutes and changes little.
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
        program.save(temporary, external_data=False)
