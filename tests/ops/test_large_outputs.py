"""Memory of large outputs and scratch, which CPU kernels take from the system themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from moce_kernels import depthwise_conv
from moceir import machine
from tests.ops.spec import skip_unless_it_runs

MEASURE = """
import torch
from moce_kernels import depthwise_conv
from moceir import machine
def resident():
    return machine._fields(machine._OWN_STATUS)["VmRSS"]
weight = torch.randn(48, 1, 3, 3)
depthwise_conv(torch.randn(1, 48, 64, 64), weight, backend="cpu")
before = resident()
for side in (1000, 700, 900, 1100, 800):  # none fits where another was
    out = depthwise_conv(torch.randn(1, 48, side, side), weight, backend="cpu")
    del out
print(resident() - before)
"""


@pytest.mark.skipif(not machine._OWN_STATUS.exists(), reason="no /proc to measure with")
def test_what_was_freed_is_the_system_s_again() -> None:
    """200 MB a picture; scratch may be kept, and a little is PyTorch's own."""
    skip_unless_it_runs("cpu", "depthwise_conv")
    process = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    assert int(process.stdout) < 100e6


TOO_LARGE = """
import resource, torch
from moce_kernels import depthwise_conv
x, weight = torch.zeros(1, 1, 1, 1).expand(1, 8, 4000, 4000), torch.randn(8, 1, 3, 3)
depthwise_conv(x[..., :64, :64], weight, backend="cpu")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, resource.RLIM_INFINITY))
try:
    depthwise_conv(x, weight, backend="cpu")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(not machine._OWN_STATUS.exists(), reason="no /proc")
def test_too_little_memory_is_said() -> None:
    skip_unless_it_runs("cpu", "depthwise_conv")
    process = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], capture_output=True, text=True, check=True
    )
    assert "can't allocate memory: you tried to allocate 512000000 bytes" in process.stdout


def test_many_threads() -> None:
    skip_unless_it_runs("cpu", "depthwise_conv")
    torch.manual_seed(0)
    weight = torch.randn(16, 1, 3, 3)

    def outputs(side: int) -> tuple[Tensor, list[Tensor]]:
        """Of 1.6 to 4.4 MB, all alive at once: had two the same memory, they would not agree."""
        x = torch.randn(1, 16, side, side)
        return x, [depthwise_conv(n * x, weight, backend="cpu") for n in range(1, 6)]

    with ThreadPoolExecutor(4) as threads:
        for x, several in threads.map(outputs, [160, 260, 200, 160] * 5):
            expected = depthwise_conv(x, weight, backend="reference")
            for n, out in enumerate(several, start=1):
                torch.testing.assert_close(out, n * expected, rtol=1e-4, atol=1e-4)


FORK = """
import os, signal, sys, threading, torch
from moce_kernels import depthwise_conv
torch.set_num_threads(1)
weight = torch.randn(48, 1, 3, 3)
inputs = [torch.randn(1, 48, 120 + 7 * n, 120) for n in range(6)]
depthwise_conv(inputs[0], weight, backend="cpu")
done = threading.Event()
def churn():  # blocks of several sizes come from the system and go back to it
    while not done.is_set():
        for x in inputs:
            depthwise_conv(x, weight, backend="cpu")
threads = [threading.Thread(target=churn) for _ in range(3)]
[thread.start() for thread in threads]
ended = []
for _ in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs
        depthwise_conv(inputs[0], weight, backend="cpu")
        os._exit(0)
    ended.append(os.waitpid(child, 0)[1])
    if ended[-1]:
        break
done.set()
[thread.join() for thread in threads]
print(len(ended), "forked,", sum(map(bool, ended)), "hung")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_other_threads_take_blocks() -> None:
    """The child's copy of the lock is free. Of the children one in eight hung without that."""
    skip_unless_it_runs("cpu", "depthwise_conv")
    process = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True)
    assert process.stdout == "60 forked, 0 hung\n", process.stderr
