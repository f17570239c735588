"""Options of the microbenchmarks, and what the machine can do at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.environment import environment, processor
from bench.microbenchmark import synchronize


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("moce_kernels")
    group.addoption("--device", help="cpu or cuda; by default cuda where there is one")
    group.addoption("--dtypes", default="float32", help="such as float32,bfloat16")
    group.addoption("--quick", action="store_true", help="small inputs, to see that all runs")
    group.addoption("--threads", type=int, default=2, help="of the CPU")
    group.addoption("--published", metavar="FOLDER", help="a clone of the published code")


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    return device_of(pytestconfig)


def device_of(config: pytest.Config) -> torch.device:
    asked = config.getoption("--device")
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption("--quick")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dtype" in metafunc.fixturenames:
        names = metafunc.config.getoption("--dtypes").split(",")
        metafunc.parametrize("dtype", [getattr(torch, n) for n in names], ids=names)


@pytest.fixture(autouse=True)
def number_of_threads(pytestconfig: pytest.Config) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(pytestconfig.getoption("--threads"))
    yield
    torch.set_num_threads(before)


def seconds(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """The median of some calls, after one."""
    times = []
    for _ in range(rounds + 1):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """The device, and its measured rates: what fractions are of."""
    device, quick = device_of(config), config.getoption("--quick")
    on_gpu = device.type == "cuda"
    threads = config.getoption("--threads")
    torch.set_num_threads(threads)
    elements = 2**20 if quick else 2**28 if on_gpu else 2**25
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    copy = 8 * elements / seconds(lambda: target.copy_(source), device, 3 if quick else 20)
    side = 256 if quick else 8192 if on_gpu else 2048
    matrix = {}
    for name in config.getoption("--dtypes").split(","):
        a = torch.ones(side, side, device=device, dtype=getattr(torch, name))
        rounds = 1 if quick else 10
        matrix[name] = 2 * side**3 / seconds(lambda a=a: a @ a, device, rounds)
    machine_info.pop("node", None)  # the machine's name is nobody's business
    found = environment(threads)
    machine_info["moce"] = {
        **found,
        "device": torch.cuda.get_device_name() if on_gpu else processor(found),
        "copy_bytes_per_second": copy,
        "matrix_flops_per_second": matrix,
    }
