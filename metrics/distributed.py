"""Sharing of an evaluation between processes, so that the figures do not depend on their number."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import ConfigError
from torch_utils.distributed import from_rank_0, gather_objects, rank, world_size
from torch_utils.launch import ProcessError

T = TypeVar("T")


class Accumulator:
    """Values of samples: integer counts, which add up exactly, and rows of real numbers by sample index."""

    def __init__(self):
        # On the CPU: an evaluation of 50,000 samples keeps 400 MB of features.
        self._counts: dict[str, Tensor] = {}
        self._rows: dict[str, dict[int, np.ndarray]] = {}

    def add_counts(self, name: str, counts: Tensor) -> None:
        """Add int64 counts of any shape to those under the same name."""
        counts = counts.cpu()
        self._counts[name] = self._counts[name] + counts if name in self._counts else counts

    def put_rows(self, name: str, indices: list[int], rows: Tensor) -> None:
        """Store one row of N,F for each sample index."""
        self._rows.setdefault(name, {}).update(zip(indices, rows.cpu().numpy(), strict=True))

    def gather(self) -> Accumulator:
        """Return the accumulated values of all processes together, in every process."""
        # Sums of integers and sets of rows do not depend on how samples were distributed.
        total = Accumulator()
        for accumulator in gather_objects(self):
            for name, counts in accumulator._counts.items():
                total.add_counts(name, counts)
            for name, rows in accumulator._rows.items():
                total._rows.setdefault(name, {}).update(rows)
        return total

    def __contains__(self, name: str) -> bool:
        return name in self._counts or name in self._rows

    def counts(self, name: str) -> Tensor:
        """Return the sum of the counts, in their shape."""
        return self._counts[name]

    def rows(self, name: str, count: int | None = None) -> Tensor:
        """Return the first `count` rows (all for None) as N,F, in the order of sample indices."""
        # Metrics of one mode may need different numbers of samples: each takes the first ones.
        rows = self._rows[name]
        return torch.from_numpy(np.stack([rows[index] for index in sorted(rows)[:count]]))


def local_batches(count: int, batch_size: int) -> Iterator[range]:
    """Yield this process's batches of sample indices 0 to count - 1.

    All processes together have the same batches as a single process, so that no figure depends on their number.
    """
    # Process 0 of 2 has batches 0, 2, 4, ...: whole batches, because batch sizes influence rounding.
    for start in range(rank() * batch_size, count, world_size() * batch_size):
        yield range(start, min(start + batch_size, count))


def run_on_all_ranks(work: Callable[[], T]) -> T:
    """Return this process's result of `work`; a failure in one process is raised in all, so that none waits forever.

    Raises:
        ConfigError: raised by another process.
        ProcessError: anything else that another process raised; with its traceback unless it is an input error.
        Exception: raised by `work` in this process.
    """
    # Catch the failure of this process, so that it takes part in the exchange below.
    result = error = None
    try:
        result = work()
    except Exception as raised:
        error = raised

    # Exchange failures, so that all processes know whether to go on. This also waits for the slowest one.
    failures = [failure for failure in gather_objects(_portable(error)) if failure is not None]
    if error is not None:
        raise error
    if failures:
        raise failures[0]
    return result


def _portable(error: Exception | None) -> Exception | None:
    """Return an exception that can be pickled and sent to other processes."""
    # ConfigErrors keep their field for the command line.
    if error is None or isinstance(error, ConfigError):
        return error

    # Input errors need no traceback, a bug of the program does.
    if isinstance(error, OSError | ValueError):
        return ProcessError(str(error))
    return ProcessError("".join(traceback.format_exception(error)))


def run_on_rank_0(work: Callable[[], T]) -> T:
    """Call `work` on rank 0 only, and return its result or raise its failure in every process."""
    # The others take part in the exchange of failures only, then receive the result.
    result = run_on_all_ranks(work if rank() == 0 else lambda: None)
    return from_rank_0(result)
