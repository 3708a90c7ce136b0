"""How the processes of a run share the work of an evaluation, so that their number does not show."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import click

from torch_utils.distributed import ProcessError, from_rank_0, gather_objects, rank, world_size

T = TypeVar("T")


def shared(count: int, batch: int) -> Iterator[range]:
    """This process's batches of `count` samples; together the processes have the batches that one would have."""
    starts = range(rank() * batch, count, world_size() * batch)
    return (range(start, min(start + batch, count)) for start in starts)


def together(work: Callable[[], T]) -> T:
    """What this process's part of a work gives. One that fails, fails in all processes: none waits for it in vain."""
    found, failure = None, None
    try:
        found = work()
    except Exception as error:
        failure = error
    failures = [text for text in gather_objects(failure and _told(failure)) if text is not None]
    if failure:
        raise failure
    if failures:
        raise ProcessError(failures[0])
    return found


def _told(failure: Exception) -> str:
    """For the other processes: what a user can put right as it is, a fault of the program with where it is."""
    if isinstance(failure, OSError | ValueError | click.ClickException):
        return str(failure)
    return "".join(traceback.format_exception(failure))


def on_rank_0(work: Callable[[], T]) -> T:
    """What rank 0 alone computes, in every process; its failure too."""
    found = together(work if rank() == 0 else lambda: None)
    return from_rank_0(found)
