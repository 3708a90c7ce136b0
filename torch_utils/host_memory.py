"""Memory of the CPU: how much is free, and keeping it between large temporaries."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory instead of returning it to the system at once, for this whole process.

    A feature map of 100 MB is otherwise mapped anew for every layer, and the system clears each page at its first
    touch, which costs more than the layer's bias and activation. Peak memory grows by what lies unused between pieces.

    Returns:
        Whether this C library has the switch (glibc); nothing is changed where it does not.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


# Limit, use and statistics of the control group that a container sees as its own, of version 2 and 1.
GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def free_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a process can still take without swapping, by Linux's own reckoning; None on other systems.

    Of the machine, or of the container where that has a limit of its own.
    """
    found = [_value(meminfo, "MemAvailable:", 1024), *(_free_of_group(groups, *names) for names in GROUP_FILES)]
    return min((free for free in found if free is not None), default=None)


def _free_of_group(groups: Path, limit: str, used: str, statistics: str, cached: str) -> int | None:
    """Bytes up to a group's limit; files that it has read count as free, for they can be read again."""
    with suppress(OSError, ValueError):  # no such group, or "max": no limit
        free = int((groups / limit).read_text()) - int((groups / used).read_text())
        return max(free + (_value(groups / statistics, cached) or 0), 0)
    return None


def _value(file: Path, name: str, unit: int = 1) -> int | None:
    """The number after a name that begins a line."""
    with suppress(OSError, StopIteration):
        words = next(words for words in map(str.split, file.read_text().splitlines()) if words[:1] == [name])
        return int(words[1]) * unit
    return None
