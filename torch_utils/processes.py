"""Started processes: they leave stop signals to the process that started them, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# Between two looks at the parent. A run ends process by process (parent, rank, its workers), each within this time.
WATCH_SECONDS = 1


def ignore_stop_signals() -> None:
    """Ignore signals that can reach all processes of a run, such as Ctrl-C: the parent handles them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_with_parent(parent: int | None = None) -> None:
    """End this process when its parent has ended, also if that one was killed; has no effect on Windows.

    Args:
        parent: process id; by default that of the process that started this one with `multiprocessing`.
    """
    # The id is not read here, since the parent may have ended already.
    if parent is None:
        parent = multiprocessing.parent_process().pid
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    # An orphan gets another parent. A pipe from the parent would say it at once, but processes that are forked later
    # inherit its end and keep it open; prctl(PR_SET_PDEATHSIG) exists on Linux only.
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)

    # Ends all threads, even those that wait in a collective call.
    os._exit(1)
