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


def free_memory() -> int | None:
    """Bytes that a process can still take without swapping, by Linux's own reckoning; None on other systems."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    return None
