"""How much memory this machine has, and how much of it is in use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

SMALL = 64 * 2**20
"""Bytes that are not worth asking the system for: that takes as long as a small picture."""

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_OWN_STATUS = Path("/proc/self/status")


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None if the system does not report it.

    On a CUDA device: what the driver and torch's own cache have left. On a CPU: what the system
    has left, or less if a control group (a container's limit) or ``ulimit -v`` allows less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    return host_bytes()


def host_bytes() -> int | None:
    """``available_bytes`` of the CPU."""
    limits = [
        b for b in (_system_bytes(), _cgroup_bytes(), _address_space_bytes()) if b is not None
    ]
    return max(0, min(limits)) if limits else None


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, memory that is freed stays with the process for the next allocation.

    By default the C library gives large blocks back to the system, which has to clear their pages
    again when the next step of a training asks for them. At the end everything is given back. Of
    other C libraries than glibc nothing is changed.
    """
    try:
        glibc = ctypes.CDLL("libc.so.6")
        mallopt, trim = glibc.mallopt, glibc.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_MMAP_THRESHOLD, 2**25)  # the largest that there is
    try:
        yield
    finally:
        for threshold in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            mallopt(threshold, 2**17)
        trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of ``mallopt``: both are 128 KiB at the start of a process."""


def _system_bytes() -> int | None:
    if _MEMINFO.exists():
        return _fields(_MEMINFO).get("MemAvailable")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        # macOS has no system call that reports free memory: take half of what is installed.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _fields(path: Path) -> dict[str, int]:
    """The entries of /proc/meminfo or /proc/self/status that are in kB, in bytes."""
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name] = int(words[0]) * 1024
    return fields


def _cgroup_bytes() -> int | None:
    """What the control groups of this process, version 1 or 2, and those above still allow."""
    if not _OWN_CGROUPS.exists():
        return None
    rooms = []
    for line in _OWN_CGROUPS.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, limit, usage, cache = _CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage, cache = (
                _CGROUPS / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        # Inside a container the group's own path may not be mounted: its root then is the group.
        group = root / own.lstrip("/")
        for folder in [group, *group.parents]:
            if folder.is_relative_to(root) and (folder / limit).is_file():
                room = _group_bytes(folder, limit, usage, cache)
                if room is not None:
                    rooms.append(room)
    return min(rooms, default=None)


def _group_bytes(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    allowed = (folder / limit).read_text().strip()
    if allowed == "max":
        return None
    # The page cache counts as used, but is released when memory is needed.
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    used = int((folder / usage).read_text()) - int(statistics.get(cache, 0))
    return int(allowed) - used


def _address_space_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _OWN_STATUS.exists():
        return None
    return limit - _fields(_OWN_STATUS)["VmSize"]


class Peak:
    """The most memory in use since it was made: the process's own on CPUs (since the process
    started, where the system cannot reset the count), torch's on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Only Linux has it, and some containers forbid it.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """None on a system that does not report it."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if _OWN_STATUS.exists():
            return _fields(_OWN_STATUS)["VmHWM"]
        if sys.platform == "win32":
            return None
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def readable(count: int) -> str:
    """1.23 GB, or 45 MB below one."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
