"""What there is on this machine to restore pictures with."""

from __future__ import annotations

import sys

import torch

from moce_kernels import info as kernels
from moceir import __version__
from moceir.model import load_model
from moceir.weights.bundled import BUNDLED


def machine_report() -> str:
    """Lines for people: versions, devices, bundled weights, and for each operator which backend
    runs and why others do not."""
    count = torch.cuda.device_count()
    gpus = "".join(f", cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))
    lines = [
        f"moceir {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}",
        f"devices: cpu ({torch.get_num_threads()} threads){gpus}",
    ]
    for name in BUNDLED:
        parameters = sum(p.numel() for p in load_model(name).parameters())
        lines.append(f"bundled weights: {name}, {parameters:,} parameters")
    return "\n".join([*lines, kernels.report()])
