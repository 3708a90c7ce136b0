"""Memory of the CPU, kept between large temporaries."""

from __future__ import annotations

import ctypes
import sys

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
