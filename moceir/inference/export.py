"""The network as an ONNX file, for other runtimes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moce_kernels import use_backends
from moce_kernels.reference import fft_attention
from moce_kernels.reference.grouped_experts import expert
from moceir.errors import ConfigError
from moceir.files import whole_file
from moceir.model import MoCEIR
from moceir.model.blocks import DecoderBlock
from moceir.model.experts import ExpertLayer


def export_onnx(model: MoCEIR, path: Path, height: int, width: int) -> None:
    """Write the network for one picture of this size, (1, 3, height, width) float32 in [0, 1], as
    ONNX; the result has the same shape and is not clamped.

    The graph is the reference backend's with two changes, for want of operators: Fourier transforms
    are products with their matrices, and every expert is computed, the ones that are not chosen
    with a gate of zero.

    Raises:
        ConfigError: a size below 1, or the packages of ``moceir[export]`` are missing.
        OSError: the file cannot be written.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"size {width} x {height}: give at least 1 x 1")
    try:
        from onnxscript import optimizer
    except ImportError:
        raise ConfigError(
            "the ONNX exporter is not installed: pip install 'moceir[export]'"
        ) from None
    model = copy.deepcopy(model).cpu().float().eval()
    for block in model.modules():
        if isinstance(block, DecoderBlock):
            block.experts = _EveryExpert(block.experts)  # type: ignore[assignment]
    image = torch.zeros(1, 3, height, width)
    with _reference_backend(), torch.no_grad(), whole_file(path) as temporary:
        program = torch.onnx.export(
            model,
            (image,),
            dynamo=True,
            input_names=["image"],
            output_names=["restored"],
            optimize=False,
        )
        assert program is not None  # dynamo=True returns one
        # The rest of what ``optimize`` does takes minutes and changes little.
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
        program.save(temporary, external_data=False)


class _EveryExpert(nn.Module):
    """``ExpertLayer`` without anything that depends on the route."""

    def __init__(self, layer: ExpertLayer) -> None:
        super().__init__()
        self.router, self.bank, self.project_out = layer.router, layer.bank, layer.project_out

    def forward(
        self, x: Tensor, shared: Tensor, frequency: Tensor
    ) -> tuple[Tensor, SimpleNamespace]:
        pooled = x.mean(dim=(2, 3))
        logits = self.router.from_features(pooled) + self.router.from_frequency(frequency)
        gates, chosen = logits.softmax(dim=-1).topk(self.router.top_k, dim=-1)
        experts = torch.arange(logits.shape[-1])
        weight = (gates[:, :, None] * (chosen[:, :, None] == experts)).sum(dim=1)  # (1, n)
        parts = zip(self.bank.weights().split(self.bank.ranks), self.bank.windows, strict=True)
        outputs = [
            weight[:, i, None, None, None] * expert(x, shared, w, window, 1e-5)
            for i, (w, window) in enumerate(parts)
        ]
        # Of the route, a block takes no more than the gates.
        routing = SimpleNamespace(plan=SimpleNamespace(gate=gates))
        return torch.stack(outputs).sum(dim=0), routing


def _window_fft_conv(q: Tensor, k: Tensor, window: int) -> Tensor:
    """``reference.window_fft_conv`` by products with the matrices of the Fourier transform."""
    B, C, H, W = q.shape
    P = window
    bottom, right = -H % P, -W % P
    angle = 2 * math.pi / P * torch.outer(torch.arange(P), torch.arange(P)).double()
    cos, sin = angle.cos().float(), angle.sin().float()

    def spectrum(t: Tensor) -> tuple[Tensor, Tensor]:
        t = F.pad(t, (0, right, 0, bottom))
        t = t.reshape(B, C, (H + bottom) // P, P, (W + right) // P, P).transpose(3, 4)
        return cos @ t @ cos - sin @ t @ sin, -(cos @ t @ sin + sin @ t @ cos)

    (q_re, q_im), (k_re, k_im) = spectrum(q), spectrum(k)
    re, im = q_re * k_re - q_im * k_im, q_re * k_im + q_im * k_re
    out = (cos @ re - sin @ im) @ cos - (cos @ im + sin @ re) @ sin
    out = (out / P**2).transpose(3, 4).reshape(B, C, H + bottom, W + right)
    return out[:, :, :H, :W]


@contextmanager
def _reference_backend() -> Iterator[None]:
    fft = fft_attention.window_fft_conv
    fft_attention.window_fft_conv = _window_fft_conv
    try:
        with use_backends("reference"):
            yield
    finally:
        fft_attention.window_fft_conv = fft
