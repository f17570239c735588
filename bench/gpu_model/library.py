"""What the CUDA library's operators launch: their own host code, run without a GPU.

csrc/cuda is compiled by nvcc for compute capability 9.0 and linked with runtime.c in place of
CUDA's runtime library. The operators then get tensors of the CPU, into which nothing is written;
each launch is told with the kernel, its grid and its arguments.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu_model import machine_code
from bench.gpu_model.launch import Array, Kernel, Launch, array
from bench.gpu_model.steps import POINTER, Value

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build/cuda"  # where an editable installation has compiled it, perhaps for 9.0
RUNTIME = Path(__file__).with_name("runtime.c")
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""An operator, its arguments, and those with names."""


def build(sources: Sequence[str] | None = None) -> Path:
    """Compiles what has changed since the last time; all of it takes minutes.

    Args:
        sources: objects of setup.py, such as ``depthwise_conv_kernel_bfloat16``; by default all.
            Operators that need others must not be called.

    Raises:
        RuntimeError: there is no compiler, or no nvcc, or something does not compile.
    """
    spec = importlib.util.spec_from_file_location("moce_setup", ROOT / "setup.py")
    assert spec and spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    compiler = setup.find_compiler()
    if compiler is None:
        raise RuntimeError("there is no C++ compiler: set CXX, or install g++")
    try:
        cuda = setup.find_cuda()._replace(archs=("9.0",))
    except setup.CannotBuildCudaError as problem:
        raise RuntimeError(
            f"the CUDA library's kernels cannot be compiled: {problem}; install the CUDA toolkit"
        ) from problem
    setup.write_cuda_ninja(FOLDER, compiler, cuda, FOLDER / "unused.so")
    text = (FOLDER / "build.ninja").read_text()
    every = re.findall(r"^build (\w+)\.o: compile", text, flags=re.MULTILINE)
    wanted = every if sources is None else list(sources)
    ninja = [sys.executable, "-m", "ninja", "-C", str(FOLDER), "-j", str(setup.jobs())]
    command = [*ninja, *(f"{one}.o" for one in wanted)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"csrc/cuda does not compile:\n{done.stdout}{done.stderr}")
    library = FOLDER / ("all.so" if sources is None else "some.so")
    runtime = FOLDER / "runtime.o"
    c_only = [compiler, "-x", "c", "-O1", "-w", "-fPIC", "-c", str(RUNTIME), "-o", str(runtime)]
    subprocess.run(c_only, check=True)
    torch_libraries = Path(torch.__file__).parent / "lib"
    link = [
        *(compiler, "-shared", *(str(FOLDER / f"{one}.o") for one in wanted), str(runtime)),
        *(f"-Wl,--defsym={table}=0" for table in _tables(set(every) - set(wanted))),
        *("-Wl,-Bsymbolic", f"-L{torch_libraries}", "-ltorch", "-ltorch_cpu", "-lc10"),
        *("-o", str(library)),
    ]
    subprocess.run(link, check=True)
    return library


def _tables(missing: set[str]) -> list[str]:
    """The tables of kernels that these objects would define, as C++ spells their names."""
    names = [one.replace("_kernel_", "_") for one in missing if "_kernel_" in one]
    return [f"_ZN4moce{len(name)}{name}E" for name in names]


class Library:
    """A library of ``build``, loaded: a process can load one."""

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(path)
        told = ctypes.CFUNCTYPE(
            None,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_uint),
            ctypes.c_uint,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_void_p),
        )
        self._launched = told(self._record)
        pointer = ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "moce_launched")
        pointer.value = ctypes.cast(self._launched, ctypes.c_void_p).value
        self._modules = _modules(path)
        self._codes: dict[str, machine_code.Code] = {}
        self._found: list[tuple[str, tuple[int, int, int], int, int, bytes]] = []
        self._problem: Exception | None = None
        self._known: dict[str, list[Launch]] = {}

    def code(self, name: str) -> machine_code.Code:
        """Of a kernel, by its mangled name, which no two kernels share."""
        if name not in self._codes:
            module = next(one for one in self._modules if name.encode() in one)
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(module)
                file.flush()
                self._codes.update(machine_code.read_all(Path(file.name)))
        return self._codes[name]

    def _record(self, name_: bytes, sizes: Any, threads: int, shared: int, arguments: Any) -> None:
        """A launch. Nothing may be raised here, in the midst of C."""
        name = name_.decode()
        try:
            code = self.code(name)
            end = max((at + size for at, size in code.parameters), default=0)
            data = bytearray(end)
            for i, (at, size) in enumerate(code.parameters):
                data[at : at + size] = ctypes.string_at(arguments[i], size)
            grid = sizes[0], sizes[1], sizes[2]
            self._found.append((name, grid, threads, shared, bytes(data)))
        except Exception as problem:  # raised by launches()
            self._problem = problem

    def launches(self, call: Call) -> list[Launch]:
        """What an operator launches; its tensors may be fake. Equal calls give the same objects."""
        real = _Real()
        operator, args, kwargs = call
        args, kwargs = real(args), {name: real(value) for name, value in kwargs.items()}
        key = f"{operator} {real.described} {real.plain}"
        if key in self._known:
            return self._known[key]
        names = [argument.name for argument in operator._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tensors = [(name, t) for name, t in given.items() if isinstance(t, Tensor)]
        scalars = {name: v for name, v in given.items() if not isinstance(v, Tensor)}
        self._found.clear()
        with _Allocations() as made:
            operator._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem
        tensors += [(f"made{i}", t) for i, t in enumerate(made.tensors)]
        found = [self._launch(*one, tensors, scalars) for one in self._found]
        self._known[key] = found
        return found

    def _launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        data: bytes,
        tensors: list[tuple[str, Tensor]],
        scalars: dict[str, Any],
    ) -> Launch:
        """With the arrays whose addresses the kernel reads: it may be given others too."""
        code = self.code(name)
        read = code.constants()
        arrays: list[Array] = []
        parameters: list[Value] = list(data)
        scalars = dict(scalars)
        for at in range(0, len(data) - 7, 8):
            address = int.from_bytes(data[at : at + 8], "little")
            owner = _owner(address, tensors)
            if owner is None:
                continue
            what, t = owner
            distance = address - t.data_ptr()
            if what == "offsets" and "windows" in scalars:  # a kernel for each expert
                scalars["expert"] = distance // 8
            encoded = (len(arrays) + 1 << POINTER) + distance
            parameters[at : at + 8] = encoded.to_bytes(8, "little")
            if read is None or at in read:
                arrays.append(array(what, t))
            else:
                parameters[at : at + 8] = [None] * 8
        kernel = Kernel(code, threads, code.shared + shared, tuple(parameters))
        return Launch("library", short_name(name), tuple(arrays), scalars, grid, kernel)


def _owner(address: int, tensors: list[tuple[str, Tensor]]) -> tuple[str, Tensor] | None:
    """The tensor that begins at an address, or else one that has it inside."""
    inside = None
    for name, t in tensors:
        if t.numel() == 0:
            continue
        last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
        if t.data_ptr() == address:
            return name, t
        if t.data_ptr() < address <= t.data_ptr() + last * t.element_size():
            inside = name, t
    return inside


class _Real:
    """Replaces fake tensors by real ones, of which some may share memory as the fake ones do."""

    def __init__(self) -> None:
        self.storages: dict[int, tuple[int, torch.UntypedStorage]] = {}
        self.described: list[Any] = []
        self.plain: list[Any] = []

    def __call__(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self(one) for one in value)
        if not isinstance(value, Tensor):
            self.plain.append(value)
            return value
        fake = value.untyped_storage()
        if fake._cdata not in self.storages:
            storage = torch.empty(fake.nbytes(), dtype=torch.uint8).untyped_storage()
            self.storages[fake._cdata] = len(self.storages), storage
        number, storage = self.storages[fake._cdata]
        place = value.storage_offset(), tuple(value.shape), value.stride()
        self.described.append((number, value.dtype, *place))
        return torch.empty(0, dtype=value.dtype).set_(storage, *place)


class _Allocations(TorchDispatchMode):
    """The tensors that an operator makes; they live as long as this."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.tensors.append(result)
        return result


def _modules(library: Path) -> list[bytes]:
    """The machine code in a library, one cubin for each source."""
    with tempfile.TemporaryDirectory() as folder:
        command = [machine_code.tool("cuobjdump"), "-xelf", "all", library]
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
        return [path.read_bytes() for path in sorted(Path(folder).glob("*.cubin"))]


@functools.cache
def short_name(name: str) -> str:
    """Of a kernel, mangled or as a profiler shows it: without namespaces and arguments."""
    if name.startswith("_Z"):
        command = ["c++filt", name]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.sub(r"\b(?:\w+::)+", "", name.partition("(")[0])
