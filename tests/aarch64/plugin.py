"""A pytest plugin: the CPU operators of a program for 64-bit Arm in place of the CPU library's.

MOCE_TEST_PROGRAM=<program> python -m pytest -p tests.aarch64.plugin tests/ops/test_all_ops.py

The program runs in an emulator, and so do the operators alone: PyTorch, the references and what the
tests compare with are this machine's.
"""

from __future__ import annotations

import functools
import os
import struct
import subprocess
from typing import IO, Any

import torch
from torch import Tensor

import moce_kernels  # noqa: F401  declares the operators
from moce_kernels import native
from tests.aarch64.build import EMULATOR

NUMBERS = {torch.float16: 5, torch.float32: 6, torch.bfloat16: 15, torch.int64: 4}
DTYPES = {number: dtype for dtype, number in NUMBERS.items()}


def integers(*values: int) -> bytes:
    return struct.pack(f"{len(values)}q", *values)


def string(text: str) -> bytes:
    return integers(len(text)) + text.encode()


def value(x: Any, kind: Any) -> bytes:
    """An argument, of a type in an operator's schema."""
    if isinstance(kind, torch.OptionalType):
        return b"n" if x is None else b"o" + value(x, kind.getElementType())
    if isinstance(kind, torch.ListType):
        items = [value(item, kind.getElementType()) for item in x]
        return b"l" + integers(len(items)) + b"".join(items)
    if isinstance(x, Tensor):
        extent = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        whole = x.detach().as_strided((extent if x.numel() else 0,), (1,))
        memory = whole.clone().view(torch.uint8).numpy().tobytes()
        return b"t" + integers(NUMBERS[x.dtype], x.dim(), *x.shape, *x.stride()) + memory
    if isinstance(kind, torch.BoolType):
        return b"b" + struct.pack("?", x)
    if isinstance(kind, torch.FloatType):
        return b"f" + struct.pack("d", x)
    return b"i" + integers(x)


class Program:
    """The running program; its output ends where it has crashed."""

    def __init__(self, path: str) -> None:
        pipes = subprocess.Popen([EMULATOR, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert pipes.stdin and pipes.stdout
        self.stdin: IO[bytes] = pipes.stdin
        self.stdout: IO[bytes] = pipes.stdout

    def read(self, count: int) -> bytes:
        data = self.stdout.read(count)
        assert len(data) == count, "the program for 64-bit Arm has crashed"
        return data

    def integers(self, count: int = 1) -> tuple[int, ...]:
        return struct.unpack(f"{count}q", self.read(8 * count))

    def string(self) -> str:
        return self.read(*self.integers()).decode()

    def tensor(self) -> Tensor:
        number, dim = self.integers(2)
        size, stride = self.integers(dim), self.integers(dim)
        dtype = DTYPES[number]
        if 0 in size:
            return torch.empty_strided(size, stride, dtype=dtype)
        extent = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        memory = bytearray(self.read(extent * dtype.itemsize))
        return torch.frombuffer(memory, dtype=dtype).as_strided(size, stride)

    def result(self, kind: str) -> Any:
        if kind == "l":
            return [self.tensor() for _ in range(*self.integers())]
        return self.tensor() if kind == "t" else self.string()

    def call(self, schema: Any, *arguments: Any) -> Any:
        values = [value(x, a.type) for x, a in zip(arguments, schema.arguments, strict=True)]
        kinds = {"Tensor": "t", "List[Tensor]": "l", "str": "s"}
        results = "".join(kinds[str(r.type)] for r in schema.returns)
        name = schema.name.removeprefix("moce_kernels::")
        head = string(name) + integers(torch.get_num_threads(), len(values))
        self.stdin.write(head + b"".join(values) + string(results))
        self.stdin.flush()
        if not self.read(1)[0]:
            raise RuntimeError(self.string())
        returned = tuple(self.result(kind) for kind in results)
        return returned if len(returned) > 1 else returned[0]


# In CUDA's library alone.
OTHERS = (
    "fused_attention_sums",
    "fused_feedforward",
    "fused_projection",
    "grouped_depthwise_conv",
    "grouped_depthwise_conv_backward_weight",
    "grouped_window_conv",
    "grouped_window_conv_backward",
)


def replace_library(path: str) -> torch.library.Library:
    """Whoever keeps what this returns has the program's operators."""
    program = Program(path)
    library = torch.library.Library("moce_kernels", "IMPL")
    for full_name in torch._C._dispatch_get_all_op_names():
        space, _, name = full_name.partition("::")
        if space == "moce_kernels" and name not in OTHERS:
            schema = torch._C._get_schema(full_name, "")
            key = "CompositeExplicitAutograd" if name == "cpu_capability" else "CPU"
            library.impl(name, functools.partial(program.call, schema), key)
    load = native.load
    native.load = lambda name: None if name == "cpu" else load(name)  # type: ignore[assignment]
    return library


LIBRARY = replace_library(os.environ["MOCE_TEST_PROGRAM"])
