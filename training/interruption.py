"""SIGTERM, SIGHUP and Ctrl-C as a wish that the loop meets at the end of an iteration."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType, TracebackType

from torch_utils.distributed import STOP_SIGNALS

STDERR = 2  # as a file: a handler may come in the middle of a print


class Interrupted(Exception):
    """A run was stopped from outside, and all is saved."""

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number  # as shells have it


class Interruption:
    """While the context lasts, the first signal to stop is noted; the second does what it did before.

    Signals that are ignored (as nohup does with SIGHUP) stay so.

    Args:
        notice: written to the console when it comes.
    Attributes:
        signal: which one came, None so far.
    """

    def __init__(self, notice: str):
        self.notice = notice
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Interruption:
        wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()
        with suppress(OSError):  # the terminal may be gone
            os.write(STDERR, self.notice.encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
