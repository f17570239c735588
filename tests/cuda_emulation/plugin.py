"""A pytest plugin: the CUDA C++ kernels, compiled for this CPU, in place of its own.

    MOCE_EMULATED_LIBRARY=<library> python -m pytest -p tests.cuda_emulation.plugin tests/ops

Only in a process of its own: a process can have one set of kernels for CPU tensors.
"""

from __future__ import annotations

import os

import torch

import moce_kernels  # noqa: F401 - declares the operators
from moce_kernels import backends, native

native.load = lambda name: None if name == "cpu" else "this process emulates it"  # type: ignore[assignment]
backends.KERNELS["cpu"] = backends.KERNELS["cuda"]
torch.ops.load_library(os.environ["MOCE_EMULATED_LIBRARY"])
