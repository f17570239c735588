"""Compile a program's Triton kernels into Triton's cache, in parallel, with or without a GPU."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moce_kernels.absent_gpu import Target, absent_gpu


class Compiled(NamedTuple):
    """What ``precompile`` did."""

    kernels: int
    """Variants of kernels that the work launches."""
    new: int
    """Those that were not in Triton's cache."""
    seconds: float

    def summary(self) -> str:
        from triton import knobs

        return (
            f"{self.kernels} kernels, {self.new} of them compiled in {self.seconds:.0f} s, are in "
            f"{knobs.cache.dir}"
        )


class Job(NamedTuple):
    kernel: Any
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        return self.kernel.__name__


_jobs: list[Job] = []  # of the precompile call that runs; worker processes inherit it


def precompile(
    work: Callable[[], object],
    capability: int,
    jobs: int | None = None,
    library: bool | None = None,
) -> Compiled:
    """Compile what ``work()`` launches for a GPU of this compute capability (90 for 9.0).

    ``work`` runs on fake tensors: nothing is computed, see ``absent_gpu``. Results go to Triton's
    cache, ``TRITON_CACHE_DIR`` or ``~/.triton/cache``. Another machine can use them if it has the
    same versions of Triton, Python and these packages, and the cache at the same path.

    Args:
        work: makes tensors and calls operators on them.
        capability: 10 times the compute capability.
        jobs: number of processes; None: one per CPU.
        library: compile for machines with the CUDA library, or for those without; None: for both.

    Raises:
        RuntimeError: a kernel that does not compile, or no Triton.
    """
    start = time.monotonic()
    found: dict[Any, Job] = {}
    for has_library in (False, True) if library is None else (library,):
        with collected(capability, found, has_library):
            work()
    _jobs[:] = found.values()
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(_jobs)))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Python 3.12 warns about forking with threads. PyTorch's hold no lock that compiling needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        if _builds_launchers():
            _stand_in_for_libcuda(folder)
        context = multiprocessing.get_context("fork")
        with context.Pool(jobs, _start_worker, (capability, folder)) as pool:
            new = sum(pool.imap_unordered(_compile, range(len(_jobs))))
    _jobs.clear()
    return Compiled(len(found), new, time.monotonic() - start)


@contextlib.contextmanager
def collected(capability: int, found: dict[Any, Job], library: bool) -> Iterator[None]:
    """Adds every variant launched inside to ``found``, by kernel and Triton's key."""
    from triton.runtime.jit import JITFunction

    launch, compile_ = JITFunction.run, JITFunction._do_compile

    def collect(self: Any, key: Any, *arguments: Any) -> None:
        found.setdefault((self, key), Job(self, (key, *arguments)))

    def look_up(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        launch(kernel, *args, grid=grid, warmup=True, **kwargs)

    JITFunction._do_compile = collect
    try:
        with absent_gpu(capability, look_up, library):
            yield
    finally:
        JITFunction._do_compile = compile_


def capability(arch: str | None) -> int:
    """10 times the compute capability of "9.0"; None: of this machine's GPU.

    Raises:
        ValueError: there is no GPU, or ``arch`` is not a compute capability from 8.0 on.
    """
    if arch is None:
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                "this machine has no GPU: name the architecture to compile for, such as 9.0"
            )
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor
    if not re.fullmatch(r"\d+\.\d", arch) or float(arch) < 8:
        raise ValueError(
            f"architecture {arch!r}: give a compute capability from 8.0 on, such as 9.0"
        )
    return int(arch.replace(".", ""))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m moce_kernels.precompile", description=__doc__)
    parser.add_argument("work", metavar="MODULE:FUNCTION", help="whose result is called")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of the function, as text")
    parser.add_argument(
        "--arch", help="compute capability, such as 9.0; default: that of this machine's GPU"
    )
    parser.add_argument("--jobs", type=int, help="processes; default: one per CPU")
    arguments = parser.parse_args()
    module, _, function = arguments.work.partition(":")
    try:
        target = capability(arguments.arch)
        work = getattr(importlib.import_module(module), function)(*arguments.arguments)
    except (ValueError, ImportError, AttributeError, TypeError) as problem:
        parser.error(str(problem))
    try:
        print(precompile(work, target, arguments.jobs).summary())
    except RuntimeError as problem:
        raise SystemExit(f"error: {problem}") from problem


def _start_worker(capability: int, folder: str) -> None:
    """Let Triton compile where there is no GPU."""
    import torch
    from triton import knobs
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime import build, driver

    torch.set_num_threads(1)
    driver.set_active(Target(capability))
    if _builds_launchers():
        # They are linked with the GPU driver's library, of which no more than the name is needed,
        # and they would not load without it.
        with contextlib.suppress(AssertionError):
            nvidia.libcuda_dirs()
            folder = ""
        if folder:
            knobs.nvidia.libcuda_path = folder
        build._load_module_from_path = lambda *_: _Unloaded()


class _Unloaded:
    """Stands in for a module that was built to be loaded elsewhere."""

    def __getattr__(self, name: str) -> None:
        return None


def _builds_launchers() -> bool:
    """Whether this Triton has a C compiler build what it launches kernels with."""
    from triton.backends.nvidia import driver as nvidia

    return hasattr(nvidia, "compile_module_from_src")


def _stand_in_for_libcuda(folder: str) -> None:
    """An empty library of that name, to link with."""
    source = Path(folder, "empty.c")
    source.touch()
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError(
            "no C compiler: install gcc or name one in CC; Triton needs it to launch kernels"
        )
    flags = "-shared", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1"
    subprocess.run([*shlex.split(compiler), *flags, source], cwd=folder, check=True)


def _compile(index: int) -> bool:
    """Whether the job was not in the cache."""
    from triton import knobs
    from triton.backends.nvidia import driver as nvidia

    hits: list[bool] = []
    knobs.compilation.listener = lambda **what: hits.append(what["cache_hit"])
    job = _jobs[index]
    try:
        kernel = job.kernel._do_compile(*job.arguments)
    except Exception as error:
        raise RuntimeError(
            f"{job.kernel.__module__}.{job.name} does not compile: {error}"
        ) from error
    if _builds_launchers():
        nvidia.CudaUtils()
        nvidia.CudaLauncher(kernel.src, kernel.metadata)
    return not all(hits)


if __name__ == "__main__":
    main()
