"""What a pickle would cost, found without building anything."""

from __future__ import annotations

import mmap
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

MOST_TUPLE_ITEMS = 10_000_000
"""In all tuples of a pickle, a tuple that stands in others counted each time."""

_LEGACY_PICKLES = 5
"""A magic number, a version, the system, the content and the names of the storages; their bytes
follow."""

_MEMORISE = ("PUT", "BINPUT", "LONG_BINPUT")
_RECALL = ("GET", "BINGET", "LONG_BINGET")
_NESTING = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ")


def check_tuples(path: Path) -> None:
    """Refuse nested tuples that share their parts.

    As a key of a dictionary, a tuple is hashed as often as it is reachable: thirty tuples, each of
    which holds the one before it twice, take hours and no memory, also in torch's reader.

    Args:
        path: a file of torch.save, an archive or not.

    Raises:
        pickle.UnpicklingError: more than ``MOST_TUPLE_ITEMS``.
        RuntimeError: an archive that torch cannot read.
    """
    items = 0
    try:
        for size in _tuples(path):
            items += size
            if items > MOST_TUPLE_ITEMS:
                raise pickle.UnpicklingError("its tuples are nested too deeply")
    except (ValueError, IndexError, KeyError, EOFError, OverflowError):
        return  # not a complete pickle, which the reader says in its own words


def is_archive(path: Path) -> bool:
    """Whether torch.load takes a file for an archive. A zip file may also begin as a pickle."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _tuples(path: Path) -> Iterator[int]:
    """The sizes of the tuples in the order in which they are made or recalled."""
    if path.stat().st_size == 0:
        return
    if is_archive(path):
        # As torch.load reads it: zipfile takes some archives for others, or refuses them.
        yield from _sizes(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(_LEGACY_PICKLES):
            yield from _sizes(content)


def _sizes(pickled: Any) -> Iterator[int]:
    stack: list[int | None] = []  # sizes; None for a mark
    memo: dict[Any, int] = {}
    for code, argument, _ in pickletools.genops(pickled):
        if code.name in _MEMORISE or code.name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1] or 1
        elif code.name in _RECALL:
            stack.append(memo[argument])
            if memo[argument] > 1:
                yield memo[argument]
        elif code.name == "MARK":
            stack.append(None)
        else:
            taken = _take(code, stack)
            size = 1 + sum(taken) if code.name in _NESTING else 1
            stack += [size] * len(code.stack_after)
            if size > 1:
                yield size


def _take(code: pickletools.OpcodeInfo, stack: list[int | None]) -> list[int]:
    """Off the stack what an operation takes, down to a mark if it takes one."""
    count = len(code.stack_before)
    taken: list[int | None] = []
    if pickletools.markobject in code.stack_before:
        while (top := stack.pop()) is not None:
            taken.append(top)
        count = code.stack_before.index(pickletools.markobject)
    taken += [stack.pop() for _ in range(count)]
    return [size or 1 for size in taken]
