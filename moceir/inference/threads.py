"""How many threads of the CPU restore a picture."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import torch

MOST_THREADS = 1024
"""OpenMP ends the process where the system refuses it a thread."""

_children: list[bool] = []


def forked() -> bool:
    """Whether this process was forked from one that had called ``one_thread_after_fork``."""
    return bool(_children)


@functools.cache
def one_thread_after_fork() -> None:
    """OpenMP's threads do not exist in a forked child, which would wait for them forever."""

    def alone() -> None:
        _children.append(True)
        torch.set_num_threads(1)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=alone)


@contextlib.contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """So many threads for a while, of all that PyTorch computes on the CPU."""
    before = torch.get_num_threads()
    if threads == before:  # setting them drops what oneDNN has prepared
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
