"""The estimate holds, limits are read, and what does not fit is tiled or refused."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moceir import machine
from moceir.config import preset
from moceir.errors import PictureError
from moceir.inference import memory
from moceir.inference.restorer import Restorer
from tests.small_network import Restore, picture

CPU = torch.device("cpu")

KEEP = """
import resource, torch
from moceir import machine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**21) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return machine._fields(machine._OWN_STATUS)["VmRSS"]

before = resident()
with machine.kept_memory():
    faults()
    again, kept = faults(), resident() - before
print(again, kept, resident() - before)
"""


MEASURE = """
import sys, torch
from moceir.config import preset
from moceir.model import MoCEIR
from moceir import machine
from moceir.inference import memory
torch.manual_seed(0)
model = MoCEIR(preset("compact")).eval()
side = int(sys.argv[1])
image = torch.rand(1, 3, side, side)
with torch.inference_mode():
    model(image[..., :64, :64])
    peak = machine.Peak(torch.device("cpu"))
    before = machine._fields(machine._OWN_STATUS)["VmRSS"]
    model(image)
print(peak.bytes() - before, memory.network_bytes(model.config, side, side))
"""


@pytest.mark.skipif(not machine._OWN_STATUS.exists(), reason="no /proc to measure with")
def test_the_estimate_is_an_upper_bound_and_no_more_than_three_times_the_need() -> None:
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, "448"], capture_output=True, text=True, check=True
    )
    measured, estimated = map(int, process.stdout.split())
    assert measured <= estimated <= 3 * measured


def test_the_estimate_grows_with_pixels_and_width() -> None:
    compact, full = preset("compact").replace(expert_path=False), preset("moce_ir")
    assert memory.network_bytes(compact, 1000, 1000) > 3 * memory.network_bytes(compact, 500, 500)
    assert memory.network_bytes(full, 500, 500) > 2.5 * memory.network_bytes(compact, 500, 500)


def test_a_gpu_holds_more() -> None:
    config = preset("compact")
    on_gpu = memory.network_bytes(config, 500, 500, device=torch.device("cuda"))
    assert on_gpu > memory.network_bytes(config, 500, 500)


def files(folder: Path, **content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both versions of control groups; the tightest of a group and those above it."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    monkeypatch.setattr(machine, "_CGROUPS", root)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", own)

    own.write_text("0::/a/b\n")
    files(root / "a", memory__max="max", memory__current="1", memory__stat="inactive_file 0")
    assert machine._cgroup_bytes() is None
    files(
        root / "a" / "b", memory__max="900", memory__current="500", memory__stat="inactive_file 200"
    )
    assert machine._cgroup_bytes() == 600
    files(root / "a", memory__max="600", memory__current="500", memory__stat="inactive_file 0")
    assert machine._cgroup_bytes() == 100
    assert machine.host_bytes() == 100

    own.write_text("4:memory:/c\n3:cpu:/\n")
    files(
        root / "memory" / "c",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="400",
        memory__stat="total_inactive_file 50",
    )
    assert machine._cgroup_bytes() == 650
    own.write_text("4:memory:/elsewhere\n")  # seen from inside a container
    files(
        root / "memory",
        memory__limit_in_bytes="70",
        memory__usage_in_bytes="100",
        memory__stat="total_inactive_file 0",
    )
    assert machine.host_bytes() == 0


def test_what_does_not_fit_is_tiled_and_said(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((600, 1000, 3), np.uint8)
    need = memory.network_bytes(restorer.model.config, 600, 1000)
    monkeypatch.setattr(machine, "available_bytes", lambda device: need)  # 75 % of it may be used
    _, run = restorer.restore_pixels(pixels)
    assert run.tile == 512
    assert "1000 x 600 as a whole needs about 158 MB; 158 MB are free on cpu" in run.notes[0]
    assert run.notes[0].endswith("tiles of 512")
    monkeypatch.setattr(machine, "available_bytes", lambda device: 2 * need)
    assert restorer.restore_pixels(pixels)[1].tile == 0


def test_too_large_tiles_are_made_smaller_and_said(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((800, 800, 3), np.uint8)
    room = memory.network_bytes(restorer.model.config, 512, 512)
    monkeypatch.setattr(machine, "available_bytes", lambda device: int(room / memory.SHARE) + 1)
    _, run = restorer.restore_pixels(pixels, tile=700)
    assert run.tile == 512
    assert "tiles of 700 are too large, tiles of 512" in run.notes[0]


def test_whole_by_name_is_refused_with_the_numbers(
    tmp_path: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda device: 8 * 10**7)
    source = picture(tmp_path / "a.png", 1000, 600)
    result = restore(source, "-o", tmp_path / "b.png", "--tile", 0)
    assert result.exit_code == 1
    assert "a.png: 1000 x 600 as a whole needs about 158 MB; 80 MB are free on cpu" in result.output
    assert not (tmp_path / "b.png").exists()


def test_too_little_for_any_tile_is_refused(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda device: 10**6)
    with pytest.raises(PictureError, match=r"tiles of 256 need .*: free some memory"):
        restorer.restore_pixels(np.zeros((600, 1000, 3), np.uint8))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),  # a graph, a kernel
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_running_out_halves_the_tile(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    network = restorer._network
    seen = []

    def small_only(
        images: torch.Tensor, precision: str
    ) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        seen.append(max(images.shape))
        if max(images.shape) > 256:
            raise error
        return network(images, precision)

    pixels = np.random.default_rng(0).integers(0, 256, (200, 600, 3), dtype=np.uint8)
    expected, _ = restorer.restore_pixels(pixels, tile=256)
    monkeypatch.setattr(restorer, "_network", small_only)
    restored, run = restorer.restore_pixels(pixels)
    assert seen[:2] == [600, 256]
    assert run.tile == 256
    assert run.notes == ("cpu ran out of memory: continued with tiles of 256",)
    assert np.array_equal(restored, expected)

    with pytest.raises(PictureError, match="ran out of memory with the whole 600 x 200"):
        restorer.restore_pixels(pixels, tile=0)


def test_a_gpu_without_a_number_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread another GPU would be the current one."""

    class Empty:
        device = torch.device("cuda", 1)

        def tolist(self) -> list[float]:
            return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, **more: Empty())
    assert memory.find_device("cuda") == memory.find_device(None) == Empty.device


def test_memory_of_graphs_is_given_back_first(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = restorer._network
    held = [True]

    def first_fails(
        images: torch.Tensor, precision: str
    ) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        if held:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return network(images, precision)

    monkeypatch.setattr(restorer._graphs, "release", lambda: bool(held and held.pop()))
    monkeypatch.setattr(restorer, "_network", first_fails)
    _, run = restorer.restore_pixels(np.zeros((200, 600, 3), np.uint8))
    assert run.tile == 0 and run.notes == ()


def test_running_out_with_the_smallest_tile_is_an_error(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(images: torch.Tensor, precision: str) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(restorer, "_network", none)
    with pytest.raises(PictureError, match="ran out of memory with tiles of 256"):
        restorer.restore_pixels(np.zeros((600, 600, 3), np.uint8))


def test_other_errors_of_the_network_are_not_taken_for_it(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(images: torch.Tensor, precision: str) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(restorer, "_network", broken)
    with pytest.raises(RuntimeError, match="device-side"):
        restorer.restore_pixels(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_kept_memory() -> None:
    """Inside, freed memory is used again without the system; at the end it is given back."""
    done = subprocess.run(
        [sys.executable, "-c", KEEP], capture_output=True, text=True, check=True
    ).stdout
    again, kept, after = map(int, done.split())
    assert again < 20, done
    assert kept > 32 * 2**20, done
    assert after < kept / 2, done
