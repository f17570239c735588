"""Networks as files for other programs: ONNX, torch.export, the published code's checkpoints."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from moce_kernels import use_backends
from moceir.config import preset as preset_config
from moceir.errors import ConfigError, WeightsError
from moceir.files import check_free, make_folder, whole_file
from moceir.model import MoCEIR, load_model, load_published, save_published, save_weights
from moceir.model.experts import ExpertBank
from moceir.weights.bundled import BUNDLED
from moceir.weights.files import SUFFIXES

CHECKED = ((1, 64, 96), (3, 37, 45), (2, 5, 130))
"""Batch, height and width of the images with which an exported network is checked."""

TOLERANCE = 1e-3
"""The most that its output may differ from the network's: a quarter of an 8-bit level."""

TRACED = (2, 3, 200, 264)
"""Shape of the image with which the network is recorded: several windows of every size, so that
nothing is simplified to a single one."""


class Exported(NamedTuple):
    """A file with an exported network."""

    path: Path
    difference: float
    """The largest, of values in [0, 1], between its output and the network's in the check."""


def export_onnx(
    model: MoCEIR | str | Path | None, path: Path | str, *, overwrite: bool = False
) -> Exported:
    """Export a network to an ONNX file, for images of any size in batches of any size.

    Its input ``image`` and its output ``restored`` are (batch, 3, height, width) float32, RGB in
    [0, 1]; the output is clamped. Before the file gets its name, it is run with ONNX Runtime on
    images of three sizes (``CHECKED``) and compared with the network.

    ONNX has neither windowed Fourier transforms nor route-dependent dispatch, so the graph is
    that of the reference backend and computes all experts (``ExpertBank.every``).

    Args:
        model: a network, or weights as ``Restorer`` takes them; None: the bundled ones.
        path: the file to write; its folder is made.
        overwrite: replace an existing file.

    Raises:
        ConfigError: the packages of ``moceir[export]`` are missing, or are versions that translate
            the network wrongly.
        WeightsError: weights that cannot be used.
        FileExistsError: the file exists.
        OSError: the file cannot be written.
    """
    check_free(Path(path), overwrite)
    try:
        import onnxruntime
        from onnxscript import opset18, optimizer
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'moceir[export]'") from None

    def sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        # Of equal values TopK, too, has the one with the lower index first.
        operators: Any = opset18  # whose types know no list for a constant
        count = operators.Gather(operators.Shape(values), [dim])
        return operators.TopK(values, count, axis=dim, largest=int(descending))

    def write(program: ExportedProgram, file: Path) -> None:
        onnx = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["restored"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            optimize=False,
            custom_translation_table={torch.ops.aten.sort.stable: sort},
        )
        assert onnx is not None  # dynamo=True returns one
        # The rest of what ``optimize`` does takes minutes and changes little.
        optimizer.fold_constants(onnx.model)
        optimizer.remove_unused_nodes(onnx.model)
        onnx.model.graph.outputs[0].shape = onnx.model.graph.inputs[0].shape
        onnx.save(file, external_data=False)

    def read(file: Path) -> Callable[[Tensor], Tensor]:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    return _export(model, Path(path), overwrite, write, read)


def export_pt2(
    model: MoCEIR | str | Path | None, path: Path | str, *, overwrite: bool = False
) -> Exported:
    """Export a network as a program of ``torch.export``, for images of any size in batches of any
    size. It runs wherever PyTorch does, without this package:

    >>> restore = torch.export.load("network.pt2").module()
    >>> restored = restore(image)

    Input, output, the graph and the check before the file gets its name are as for
    ``export_onnx``. Arguments and errors, too; no other package is needed.
    """
    check_free(Path(path), overwrite)

    def write(program: ExportedProgram, file: Path) -> None:
        with open(file, "wb") as stream:  # of a name, torch.export wants a certain suffix
            torch.export.save(program, stream)

    def read(file: Path) -> Callable[[Tensor], Tensor]:
        with open(file, "rb") as stream:
            return torch.export.load(stream).module()

    return _export(model, Path(path), overwrite, write, read)


class _Portable(nn.Module):
    """The network as other programs get it: padding without branches, and a clamped result."""

    def __init__(self, model: MoCEIR) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float().eval()
        for module in self.model.modules():
            if isinstance(module, ExpertBank):
                module.every = True

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H, W), both in [0, 1]."""
        height, width = image.shape[2:]
        padded = image
        for axis, size in ((2, height), (3, width)):
            padded = padded.index_select(axis, self._source(size))
        return self.model(padded)[..., :height, :width].clamp(0, 1)

    def _source(self, size: int) -> Tensor:
        """Where the pixels of an axis come from after ``MoCEIR.pad``: (size + padding,) int64."""
        cell = self.model.config.cell
        place = torch.arange((size + cell - 1) // cell * cell)
        last = torch.scalar_tensor(size - 1, dtype=torch.int64)
        reflected = 2 * last - place
        beyond = torch.where(reflected.amin(dim=0) >= 0, reflected, last)
        return torch.where(place <= last, place, beyond)


def _export(
    model: MoCEIR | str | Path | None,
    path: Path,
    overwrite: bool,
    write: Callable[[ExportedProgram, Path], None],
    read: Callable[[Path], Callable[[Tensor], Tensor]],
) -> Exported:
    """Records a network, writes it and checks what can be read from the file."""
    if not isinstance(model, MoCEIR):
        model = load_model(model or BUNDLED[0])
    make_folder(path.parent)
    with torch.no_grad(), _quiet(), whole_file(path, overwrite) as temporary:
        write(_recorded(_Portable(model).eval()), temporary)
        difference = _difference(read(temporary), model, path)
    return Exported(path, difference)


def _recorded(network: _Portable) -> ExportedProgram:
    """The program of a network, for all sizes."""
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    # A size of 1 is no special case here.
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with use_backends("reference"), oblivious:
        program = torch.export.export(network, (torch.zeros(TRACED),), dynamic_shapes=(sizes,))
    # What is left are conditions under which PyTorch chose memory layouts while it recorded, such
    # as more than one row of windows. Results do not depend on them: ``CHECKED`` violates them.
    program._guards_code = []
    for symbol, range_ in program.range_constraints.items():
        program.range_constraints[symbol] = type(range_)(1, range_.upper)
    return program


def _difference(exported: Callable[[Tensor], Tensor], model: MoCEIR, path: Path) -> float:
    """The largest between the outputs of a file and of the network, after checking it."""
    random = torch.Generator().manual_seed(0)
    model = copy.deepcopy(model).cpu().float().eval()
    largest = 0.0
    for batch, height, width in CHECKED:
        image = torch.rand(batch, 3, height, width, generator=random)
        found, expected = exported(image), model(image).clamp(0, 1)
        same_shape = found.shape == expected.shape
        difference = float((found - expected).abs().max()) if same_shape else float("inf")
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"{path}: on {batch} images of {width} x {height} the exported network differs from"
                f" the original by {difference:.2g}, so that the file was not written: try other"
                " versions of torch and of the packages of moceir[export]"
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their own work. Errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
