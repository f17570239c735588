"""What is built, what loads, and what will run: ``python -m moce_kernels.info``."""

from __future__ import annotations

import os

import torch

from moce_kernels import backends, native


def report() -> str:
    """For each library whether it loads, and for each operator and device which backend will run
    float32 tensors by default and why the others cannot."""
    lines = [f"CPU library: {_library('cpu')}", f"CUDA library: {_library('cuda')}"]
    if os.environ.get(backends.VARIABLE):
        lines.append(f"{backends.VARIABLE}={os.environ[backends.VARIABLE]}")
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    for operator in backends.OPERATORS:
        for device in devices:
            try:
                runs = backends.choose(operator, None, device)
            except (backends.BackendUnavailableError, ValueError) as problem:
                runs = f"nothing: {str(problem).splitlines()[0]}"
            lines.append(f"{operator} on {device}: {runs}")
            for backend in backends.BACKENDS:
                reason = backends.why_not(backend, operator, device)
                lines.append(f"    {backend:<10}{reason or 'can run'}")
    return "\n".join(lines)


def _library(name: str) -> str:
    error = native.load(name)
    if error:
        was_built = native.library(name).exists()
        return f"{native.built(name)}; not loaded: {error}" if was_built else error
    runs = f", runs with {native.cpu_capability()}" if name == "cpu" else ""
    return f"{native.built(name)}; loaded{runs}"


if __name__ == "__main__":
    print(f"torch {torch.__version__}")
    print(report())
