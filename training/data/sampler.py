"""Endless shuffled sampling with a resumable position, and batches decoded by worker processes."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dnnlib.errors import ConfigError
from torch_utils.processes import exit_with_parent, ignore_stop_signals
from training.data.archive import DataError

# PyTorch's handler of SIGCHLD raises within this time after a worker was killed.
SIGCHLD_DELAY_SECONDS = 2

# Random numbers generated at once; one by one, they would take most of the time of a replay.
RANDOM_BLOCK = 1 << 14


class Draw(NamedTuple):
    """Index of a sample, and the position in the endless stream (of all processes together) at which it is drawn."""

    index: int
    position: int


class DrawnDataset(Dataset):
    """Data set whose samples depend on their position in the stream too: its indices are of type Draw."""


def _lost_worker() -> ConfigError:
    hint = "if memory ran out, use fewer; training resumes from its last state with `run_dir`"
    return ConfigError("workers", problem="a data loading process was killed", hint=hint)


class InfiniteSampler(Sampler[int | Draw]):
    """Endless indices: cycle through a shuffled list and swap each visited entry with one shortly before it.

    Args:
        dataset: its length is used, and whether it is a DrawnDataset, for which Draw are sampled instead of int.
        rank: number of this process.
        num_replicas: number of processes; of the positions 0, 1, 2, ... each takes rank, rank + num_replicas, ...
        shuffle: False cycles in order.
        seed: determines the order.
        window_size: how far back swaps reach, as a fraction of the data set.
        start: first position (of all processes together), a multiple of `num_replicas`: images seen before a resume.
    """

    def __init__(
        self,
        dataset: Dataset,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_size: float = 0.5,
        start: int = 0,
    ):
        # An empty data set would never yield.
        if not len(dataset):
            raise ValueError("the data set is empty")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank: got {rank}, allowed 0 to {num_replicas - 1}")
        self.count = len(dataset)
        self.with_position = isinstance(dataset, DrawnDataset)
        self.rank = rank
        self.num_replicas = num_replicas
        self.shuffle = shuffle
        self.seed = seed

        # Reach of the swaps in positions; below 2 there is nothing to swap with.
        self.window = int(np.rint(self.count * window_size)) if shuffle else 0
        self.start_at(start)

    def start_at(self, position: int) -> None:
        """Set the first position of the next iteration; ValueError if it is not valid as `start`."""
        if position < 0 or position % self.num_replicas:
            raise ValueError(f"start: got {position}, expected 0 or a multiple of the {self.num_replicas} processes")
        self.start = position

    def __iter__(self) -> Iterator[int | Draw]:
        """Iterate from `start`; earlier positions are replayed, about 2 s for ten million."""
        rng = np.random.RandomState(self.seed)
        order = np.arange(self.count)
        if self.shuffle:
            rng.shuffle(order)

        # Indexing a list is several times faster than indexing an array.
        order = order.tolist()

        position = 0
        while True:
            # All processes replay the same swaps and yield different positions. The numbers are those that the
            # published code samples one by one.
            offsets = rng.randint(self.window, size=RANDOM_BLOCK).tolist() if self.window >= 2 else None
            for step in range(RANDOM_BLOCK):
                i = position % self.count
                if position >= self.start and position % self.num_replicas == self.rank:
                    yield Draw(order[i], position) if self.with_position else order[i]

                # The entry just visited moves back, so it comes at another place in the next cycle.
                if offsets:
                    j = (i - offsets[step]) % self.count
                    order[i], order[j] = order[j], order[i]
                position += 1


# --------------------------------------------------------------------------- worker processes


class _ErrorsAsSamples(Dataset):
    """Return a DataError in place of the sample: raised in a worker, it would arrive as a traceback in text."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, idx: int | Draw) -> dict | DataError:
        try:
            return self.dataset[idx]
        except DataError as error:
            return error


def _collate(samples: list[dict | DataError]) -> dict[str, torch.Tensor] | DataError:
    # One invalid sample makes the batch an error, which `BatchStream` raises in the main process.
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else default_collate(samples)


def _start_worker(_number: int) -> None:
    """Leave signals to the main process, in a worker, and end with it."""
    # PyTorch's workers watch their parent too, but only while they wait for work.
    ignore_stop_signals()
    exit_with_parent()


def is_lost_worker(error: BaseException | None) -> bool:
    """Return whether this is PyTorch's error for a killed worker; its SIGCHLD handler raises it at any moment."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def _losses_ignored() -> Iterator[None]:
    """Keep PyTorch's handler of SIGCHLD from raising errors for workers that are killed in this block."""
    # Windows has no such signal.
    if not hasattr(signal, "SIGCHLD"):
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


class BatchStream:
    """Endless batches with the position of the consumer, independent of how far workers have read ahead.

    Iterating gives dicts of tensors, N first, in the same order for any number of workers. It raises DataError for
    invalid files. As a context manager, the stream raises ConfigError if a worker was killed, which PyTorch can notice
    anywhere in the block, and ends the workers after the block.

    Args:
        dataset: samples are dicts of arrays and numbers.
        batch_size: samples per batch on this process.
        workers: worker processes; 0 decodes in this process.
        device: destination of the batches; memory is pinned for CUDA.
        prefetch: batches that each worker reads ahead.
        sampler_options: arguments of InfiniteSampler.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        workers: int = 0,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
        **sampler_options,
    ):
        self.sampler = InfiniteSampler(dataset, **sampler_options)
        self.batch_size = batch_size
        self.position = self.sampler.start

        # Pinned memory allows asynchronous copies to a GPU.
        self._loader = DataLoader(
            _ErrorsAsSamples(dataset),
            batch_size=batch_size,
            collate_fn=_collate,
            sampler=self.sampler,
            num_workers=workers,
            pin_memory=torch.device(device).type == "cuda",
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_start_worker,
        )

        # Created at the first batch: `load_state_dict` may change the start, and workers begin to read at once.
        self._batches: Iterator[dict[str, torch.Tensor]] | None = None
        self._workers: set[BaseProcess] = set()

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, _type: type | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        self.close()
        if is_lost_worker(error):
            raise _lost_worker() from error

    def close(self) -> None:
        """End the workers; a further iteration starts new ones and continues at the same position."""
        # Killed, since they ignore SIGTERM: `multiprocessing` would send it at the end of this process and wait.
        with _losses_ignored():
            for worker in self._workers:
                worker.kill()
            for worker in self._workers:
                worker.join()
        self._workers.clear()
        self._batches = None
        self.sampler.start_at(self.position)

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        # Starts the workers.
        if self._batches is None:
            others = set(multiprocessing.active_children())
            try:
                self._batches = iter(self._loader)
            finally:
                self._workers = set(multiprocessing.active_children()) - others

        # Wait for the next batch.
        try:
            batch = next(self._batches)
        except (EOFError, ConnectionError) as error:
            # A worker was killed while it sent a batch. Let PyTorch's SIGCHLD handler raise now, and not while this
            # error is handled.
            time.sleep(SIGCHLD_DELAY_SECONDS)
            raise _lost_worker() from error
        if isinstance(batch, DataError):
            raise batch

        # Batches that workers have read ahead do not count: after a resume they are read again.
        self.position += self.batch_size * self.sampler.num_replicas
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position of all processes together; their number may differ when it is loaded."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of `state`; ValueError if it is not a multiple of the number of processes."""
        # Batches that were read ahead from the old position are dropped.
        self.close()
        self.sampler.start_at(state["position"])
        self.position = self.sampler.start
