"""An endless, resumable order of samples, and batches read ahead by workers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from torch_utils.distributed import STOP_SIGNALS, ProcessError
from training.data.archive import DataError

LOST_WORKER = (
    "a process that reads data was killed; if memory was short: fewer --workers; --continue goes on from the last state"
)
DEATH_KNOWN_SECONDS = 2
REPLAY_BLOCK = 1 << 14  # random numbers drawn at once


class InfiniteSampler(Sampler[int]):
    """Endless indices: a shuffled list walked round and round, each visited entry swapped with one shortly before it.

    Args:
        dataset: only its length is used.
        rank, num_replicas: of all positions 0, 1, 2, ... this process takes rank, rank + num_replicas, ...
        shuffle: False walks in order.
        seed: the order follows from it.
        window_size: how far back swaps reach, as a fraction of the data set.
        start: positions (of all processes together) to leave out, a multiple of `num_replicas`: the images already
            seen by a run that goes on.
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
        if not len(dataset):
            raise ValueError("the data set is empty")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank: got {rank}, allowed 0 to {num_replicas - 1}")
        self.count, self.rank, self.num_replicas = len(dataset), rank, num_replicas
        self.shuffle, self.seed = shuffle, seed
        self.start_at(start)
        self.window = int(np.rint(self.count * window_size)) if shuffle else 0

    def start_at(self, position: int) -> None:
        """Let the next walk begin there; ValueError for what is no `start`."""
        if position < 0 or position % self.num_replicas:
            raise ValueError(f"start: got {position}, expected 0 or a multiple of the {self.num_replicas} processes")
        self.start = position

    def __iter__(self) -> Iterator[int]:
        """A fresh walk from `start`; what lies before it is replayed (about 2 s for ten million positions)."""
        order = np.arange(self.count)
        random = np.random.RandomState(self.seed)
        if self.shuffle:
            random.shuffle(order)
        order, position = order.tolist(), 0
        while True:
            back = random.randint(self.window, size=REPLAY_BLOCK).tolist() if self.window >= 2 else None
            for step in range(REPLAY_BLOCK):
                i = position % self.count
                if position >= self.start and position % self.num_replicas == self.rank:
                    yield order[i]
                if back:
                    j = (i - back[step]) % self.count
                    order[i], order[j] = order[j], order[i]
                position += 1


class _Guarded(Dataset):
    """A data set whose faults are handed over instead of raised: the loader would wrap them in pages of traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, idx: int) -> dict | DataError:
        try:
            return self.dataset[idx]
        except DataError as error:
            return error


def _collate(samples: list) -> dict[str, torch.Tensor] | DataError:
    faults = [sample for sample in samples if isinstance(sample, DataError)]
    return faults[0] if faults else default_collate(samples)


def _leave_signals_alone(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; what it means is for the one to decide that takes the batches."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def is_lost_worker(error: BaseException) -> bool:
    """Whether this is what torch raises, by a signal's handler, at any moment: a process that reads data was killed."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def lost_workers() -> Iterator[None]:
    """Around all that is done with batches: the death of a worker as a ProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        raise ProcessError(LOST_WORKER) from error


class BatchStream:
    """Endless batches whose position is that of the consumer, however far the workers have read ahead.

    Iterating gives dicts of tensors (N first), in the sampler's order with any number of workers; a DataError of the
    data set reaches the consumer as it is; the death of a worker is a ProcessError here or what `lost_workers` takes.

    Args:
        batch_size: samples of one batch on this process.
        workers: processes that decode; 0 decodes in this one.
        device: where batches will go; memory is pinned for CUDA.
        prefetch: batches that each worker keeps ready.
        sampler_options: of InfiniteSampler.
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
        self._loader = DataLoader(
            _Guarded(dataset),
            batch_size=batch_size,
            collate_fn=_collate,
            sampler=self.sampler,
            num_workers=workers,
            pin_memory=torch.device(device).type == "cuda",
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_leave_signals_alone,
        )
        self._batches: Iterator[dict[str, torch.Tensor]] | None = None

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        if self._batches is None:
            self._batches = iter(self._loader)
        try:
            batch = next(self._batches)
        except (EOFError, ConnectionError) as error:  # a worker died while it handed over a batch
            time.sleep(DEATH_KNOWN_SECONDS)  # torch's handler raises meanwhile, and not when this is told already
            raise ProcessError(LOST_WORKER) from error
        if isinstance(batch, DataError):
            raise batch
        self.position += self.batch_size * self.sampler.num_replicas
        return batch

    def state_dict(self) -> dict[str, int]:
        """Positions consumed by all processes together; any number of processes that divides them can go on."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken; ValueError if its position does not suit the number of processes."""
        self.sampler.start_at(state["position"])
        self.position = self.sampler.start
        self._batches = None
