"""CUDA graphs of a function, one per input shape."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor], tuple[Tensor, ...]]

LIMIT = 4
"""Shapes that are remembered. A picture's tiles have at most four: two heights, two widths."""

_CAPTURING = threading.Lock()
"""PyTorch captures one graph of a process at a time, and gives no memory back meanwhile."""


@functools.cache
def _stream(device: torch.device) -> Any:
    """For captures. PyTorch's own is on the GPU that was the current one at the first of all."""
    return torch.cuda.Stream(device)


def capture(function: Function, images: Tensor, pool: Any) -> Function:
    """``function`` for inputs like ``images``, as one launch. Results are the caller's own.

    Raises:
        RuntimeError: there is not enough memory for the graph.
    """
    static = images.clone()
    graph, stream = torch.cuda.CUDAGraph(), _stream(images.device)
    # Other threads may keep using the GPU.
    with (
        _CAPTURING,
        torch.cuda.device(images.device),
        # Goes back to this stream also where the graph cannot be made, which PyTorch leaves out.
        torch.cuda.stream(torch.cuda.current_stream(images.device)),
        torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
    ):
        results = function(static)

    def replay(images: Tensor) -> tuple[Tensor, ...]:
        static.copy_(images)
        graph.replay()
        return tuple(result.clone() for result in results)

    return replay


def empty_cache() -> None:
    """Give back the memory on GPUs that PyTorch holds and nothing uses."""
    with _CAPTURING:
        torch.cuda.empty_cache()


class Replayed:
    """A function of CUDA images that is replayed from graphs, which saves hundreds of launches.

    For the first input of a given shape, strides and dtype, the function runs normally, which loads
    and compiles what it needs; the second is captured, and all later ones are replayed. The graphs
    of the last ``LIMIT`` shapes are kept, in shared memory, because only one runs at a time:
    threads wait for one another, and so do the streams that they launch in. What the function reads
    besides its input must not move.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._graphs: OrderedDict[Any, Function | None] = OrderedDict()
        self._pool: Any = None
        self._stream: Any = None
        """That of the last replay."""
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        with self._lock:
            return self._run(images)

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        key = images.shape, images.stride(), images.dtype
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > LIMIT:
                self._graphs.popitem(last=False)
            return self.function(images)
        self._graphs.move_to_end(key)
        replay = self._graphs[key]
        if replay is None:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            replay = self._graphs[key] = capture(self.function, images, self._pool)
        stream = torch.cuda.current_stream(images.device)
        if self._stream is not None and self._stream != stream:
            stream.wait_stream(self._stream)
        self._stream = stream
        return replay(images)

    def release(self) -> bool:
        """Release the graphs' memory; returns whether there was any."""
        with self._lock:
            held = any(self._graphs.values())
            self._graphs.clear()
            self._pool = None
            return held
