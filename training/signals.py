"""SIGTERM, SIGHUP and Ctrl-C end a run between two iterations, with its state saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from torch_utils.distributed import rank
from torch_utils.processes import STOP_SIGNALS

STOP_MESSAGE = "Finishing this iteration, then saving the state; signal again to stop at once.\n"

# File descriptor: print is not safe in a signal handler, which may interrupt another print.
STDERR = 2


class Interrupted(Exception):
    """A stop signal ended the run, and its state is saved.

    Args:
        number: of the signal.
        run_dir: directory of the run.
    """

    def __init__(self, number: int, run_dir: Path):
        # All arguments, so that the exception can be sent to another process.
        super().__init__(number, run_dir)
        self.exit_code = 128 + number  # convention of shells
        self.run_dir = run_dir


@contextmanager
def defer_signals() -> Iterator[list[signal.Signals]]:
    """Defer SIGTERM, SIGHUP and Ctrl-C to the end of the iteration; a second signal takes effect at once.

    Signals that are ignored, such as SIGHUP under nohup, stay ignored. Rank 0 acknowledges the signal on stderr.

    Yields:
        Signals received so far: a list of none or one.
    """
    received: list[signal.Signals] = []
    handlers = {}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def defer(number: int, _frame: FrameType | None) -> None:
        # The next signal calls the previous handler, which ends the process.
        received.append(signal.Signals(number))
        restore()

        # After SIGHUP the terminal may be closed, and writing fails.
        if rank() == 0:
            with suppress(OSError):
                os.write(STDERR, STOP_MESSAGE.encode())

    # An ignored signal stays ignored.
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            handlers[number] = signal.signal(number, defer)
    try:
        yield received
    finally:
        restore()
