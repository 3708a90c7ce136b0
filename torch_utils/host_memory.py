"""CPU memory: how much is free, and reuse of freed memory."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4

# In a container, /proc/meminfo shows the whole machine. These files have the container's memory limit and use, and the
# amount of cached files; for control groups version 2 and 1.
CONTAINER_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def keep_freed_memory() -> None:
    """Make the C library reuse freed memory instead of returning it to the system, for the whole process.

    By default a feature map of 100 MB is mapped anew for every layer, and the system clears each page at its first
    use, which costs more than the layer's bias and activation. Peak memory grows by fragmentation. C libraries other
    than glibc are left unchanged.
    """
    # AttributeError: a C library without this function. TypeError: Windows.
    with suppress(AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt

        # No memory maps for single allocations, and no return of the heap's end to the system.
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def free_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that can be allocated without swapping, on the machine or in the container; None if unknown.

    Args:
        meminfo: Linux's memory statistics.
        groups: directory of the container's control group.
    """
    # The smallest of the machine's and the containers' numbers that are known. MemAvailable includes cached files.
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
    # On systems other than Linux there is no such file.
    with suppress(OSError):
        match = re.search(rf"^{name}\s+(\d+)", file.read_text(), re.MULTILINE)
        return int(match[1]) * unit if match else None
    return None
