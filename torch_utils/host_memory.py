"""CPU memory: how much is free, and reuse of freed memory."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4

# Files with a container's memory limit and use, and the line of its cached files, for control groups version 2 and 1.
CONTAINER_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def keep_freed_memory() -> bool:
    """Make the C library reuse freed memory instead of returning it to the system, for the whole process.

    By default a feature map of 100 MB is mapped anew for every layer, and the system clears each page at its first
    use, which costs more than the layer's bias and activation. Peak memory grows by fragmentation.

    Returns:
        Whether the C library supports it (glibc); otherwise nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False

    # No memory maps for single allocations, and no return of the heap's end to the system.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def free_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that can be allocated without swapping, on the machine or in the container; None if unknown.

    Args:
        meminfo: Linux's memory statistics.
        groups: directory of the container's control group.
    """
    # The smallest of the machine's and the containers' numbers that are known.
    available = [_number_after(meminfo, "MemAvailable:", unit=1024)]
    available += [_free_in_container(groups, *names) for names in CONTAINER_FILES]
    return min((free for free in available if free is not None), default=None)


def _free_in_container(groups: Path, limit: str, used: str, statistics: str, cached: str) -> int | None:
    """Return the bytes below the container's limit; cached files count as free, since they can be read again."""
    # No such control group, or no limit ("max").
    with suppress(OSError, ValueError):
        free = int((groups / limit).read_text()) - int((groups / used).read_text())
        return max(free + (_number_after(groups / statistics, cached) or 0), 0)
    return None


def _number_after(file: Path, name: str, unit: int = 1) -> int | None:
    """Return the number in the line that starts with `name`, times `unit`; None if there is no such line."""
    with suppress(OSError):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1]) * unit
    return None
