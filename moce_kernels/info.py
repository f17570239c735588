"""``python -m moce_kernels.info``: which kernels were built, load, and will run here."""

from __future__ import annotations

import torch

from moce_kernels import backends, native, registry


def report() -> str:
    """Whether each library loads and, for each operator and device, which backend will run float32
    tensors, which setting decides that, and why other backends cannot run."""
    lines = [f"CPU library: {_library('cpu')}", f"CUDA library: {_library('cuda')}"]
    for source, text in backends.settings():
        lines.append(f"{source}: {text}")
        try:
            backends.parse(text, source)
        except ValueError as problem:
            return "\n".join([*lines, f"no operator runs: {problem}"])
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    for operator in registry.names():
        for device in devices:
            lines.append(f"{operator} on {device}: {_runs(operator, device)}")
            for backend in backends.BACKENDS:
                reason = backends.why_not(backend, operator, device)
                lines.append(f"    {backend:<10}{reason or 'can run'}")
    return "\n".join(lines)


def _runs(operator: str, device: torch.device) -> str:
    try:
        runs = backends.choose(operator, None, device)
    except backends.BackendUnavailableError as problem:
        return f"nothing: {str(problem).splitlines()[0]}"
    asked = backends.asked_for(operator)
    return f"{runs}, as {asked[1]} says" if asked else f"{runs}, the fastest that can run"


def _library(name: str) -> str:
    error = native.load(name)
    if error:
        was_built = native.library(name).exists()
        return f"{native.built(name)}; not loaded: {error}" if was_built else error
    loaded = f"{native.built(name)}; loaded"
    if name != "cpu":
        return loaded
    runs = native.cpu_capability()
    gains = "time and memory" if runs.startswith("avx512_bf16") else "only memory"
    return f"{loaded}, runs with {runs}, bfloat16 saves {gains}"


if __name__ == "__main__":
    print(f"torch {torch.__version__}")
    print(report())
