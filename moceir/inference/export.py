"""Networks as files for other programs: ONNX, and the published code's checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from moce_kernels import use_backends
from moceir.config import preset as preset_config
from moceir.errors import ConfigError, WeightsError
from moceir.files import check_free, whole_file
from moceir.model import MoCEIR, load_model, load_published, save_published, save_weights
from moceir.model.experts import ExpertBank
from moceir.weights.bundled import BUNDLED
from moceir.weights.files import SUFFIXES


def export_onnx(
    model: MoCEIR | str | Path | None,
    path: Path | str,
    height: int = 256,
    width: int = 256,
    *,
    overwrite: bool = False,
) -> None:
    """Export a network to an ONNX file, for one image of this size.

    Its input ``image`` and its output ``restored`` are (1, 3, height, width) float32, RGB, the
    input in [0, 1]; the output is not clamped.

    ONNX has neither windowed Fourier transforms nor route-dependent dispatch, so the graph is
    that of the reference backend and computes all experts (``ExpertBank.every``).

    Args:
        model: a network, or weights as ``Restorer`` takes them; None: the bundled ones.
        path: the file to write; its folder is made.
        height, width: of the image, pixels.
        overwrite: replace an existing file.

    Raises:
        ConfigError: a size below 1, or the packages of ``moceir[export]`` are missing.
        WeightsError: weights that cannot be used.
        FileExistsError: the file exists.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite)
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

    if not isinstance(model, MoCEIR):
        model = load_model(model or BUNDLED[0])
    model = copy.deepcopy(model).cpu().float().eval()
    for module in model.modules():
        if isinstance(module, ExpertBank):
            module.every = True
    image = torch.zeros(1, 3, height, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    with use_backends("reference"), torch.no_grad(), whole_file(path, overwrite) as temporary:
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


def convert_weights(
    source: Path | str, target: Path | str, *, preset: str | None = None, overwrite: bool = False
) -> MoCEIR:
    """Convert weights between the formats of this package and of the published code.

    Args:
        source: weights as ``moceir.load_model`` takes them.
        target: its suffix selects the format: ``.safetensors`` for this package; for the published
            code, ``.ckpt`` for a Lightning checkpoint, ``.pth`` or ``.pt`` for a bare state_dict.
            Its folder is made.
        preset: the network of a published checkpoint; None: inferred from its tensors.
        overwrite: replace an existing file.

    Returns:
        The network.

    Raises:
        ConfigError: the target has another suffix; an unknown preset.
        WeightsError: the source cannot be used, or does not fit the preset.
        FileExistsError: the target exists.
        OSError: the target cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in SUFFIXES:
        raise ConfigError(f"{target}: the name must end in {', '.join(SUFFIXES)}")
    check_free(target, overwrite)
    if preset is None:
        model = load_model(source)
    elif source.is_file():
        model = load_published(source, preset_config(preset))
    else:
        raise WeightsError(f"{source}: not a file: name a published checkpoint")
    save = save_weights if target.suffix == ".safetensors" else save_published
    save(model, target)
    return model
