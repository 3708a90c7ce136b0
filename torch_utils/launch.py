"""Run a function in several processes, started by torchrun or by this module.

torch.multiprocessing.spawn is not used, because it neither re-raises the exception of a process nor forwards signals.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from dnnlib.errors import ConfigError
from torch_utils.processes import STOP_SIGNALS, exit_with_parent

MAX_PROCESSES_PER_CORE = 4  # on the CPU; more are taken for a mistake

# Environment variable that torchrun sets to the same value when it restarts a failed run.
TORCHRUN_ID = "TORCHELASTIC_RUN_ID"

TIMEOUT = datetime.timedelta(minutes=30)  # of collective calls; includes work of rank 0 alone
FAILURE_SECONDS = 0.5  # after a failure, to wait for that of the process that caused it
TERMINATE_SECONDS = 10  # between SIGTERM and SIGKILL


class ProcessError(RuntimeError):
    """A process failed or was killed; the message says which one and how."""


def started_by_torchrun() -> bool:
    """Return whether torchrun, or another launcher that sets its environment variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(function: Callable[..., None], *args: Any, processes: int, device: str) -> None:
    """Call function(device, *args) in each process, and return when all are done.

    Under torchrun, this process is one of them. Otherwise they run on this machine: a single one is this process,
    several are started and receive the stop signals that this process receives. All end when the process that started
    them ends, or one of them.

    Args:
        function: importable by name.
        args: picklable.
        processes: their number, over all machines.
        device: cuda (one GPU for each process), cpu or mps.
    Raises:
        ConfigError: see `check_processes`.
        ProcessError: a started process was killed, or its exception cannot be pickled.
        KeyboardInterrupt, SystemExit: stopped by a signal.
        Exception: that of the first started process that failed, caused by a ProcessError with its traceback.
    """
    check_processes(device, processes)

    # A killed torchrun would leave this process running. Parents other than torchrun, such as a shell, may end.
    if TORCHRUN_ID in os.environ:
        exit_with_parent(os.getppid())

    # One process needs no process group: `torch_utils.distributed` then returns at once.
    if processes == 1:
        function(_device_of(device, 0), *args)
    elif started_by_torchrun():
        with _process_group(device, _local_rank()):
            function(_device_of(device, _local_rank()), *args)
    else:
        _spawn(function, args, processes, device)


def check_processes(device: str, processes: int) -> None:
    """Check that torchrun started this number of processes, if any, and that the machine has devices for them.

    Raises:
        ConfigError: there are not; the field is `processes`.
    """
    # Of torchrun's processes, those on this machine. Launchers other than torchrun may leave out LOCAL_WORLD_SIZE.
    on_this_machine = processes
    if started_by_torchrun():
        if os.environ["WORLD_SIZE"] != str(processes):
            raise ConfigError("processes", processes, f"{os.environ['WORLD_SIZE']}, as started by torchrun")
        on_this_machine = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), _local_rank() + 1)

    # Devices. Each process needs a GPU for itself; a CPU can be shared, which is slow but useful in tests.
    if device == "cpu":
        cores = os.cpu_count() or 1
        available = f"{cores} CPU cores"
        hint = f"at most {MAX_PROCESSES_PER_CORE} processes per core are allowed"
        maximum = MAX_PROCESSES_PER_CORE * cores
    else:
        maximum = torch.cuda.device_count() if device == "cuda" else 1
        available = f"{maximum} GPUs"
        hint = "`device=cpu` needs none"
    if on_this_machine > maximum:
        problem = f"{on_this_machine} processes on this machine, which has {available}"
        raise ConfigError("processes", problem=problem, hint=hint)


def _local_rank() -> int:
    """Return the number of this process on its machine, as set by torchrun."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _device_of(device: str, local_rank: int) -> torch.device:
    return torch.device(device, local_rank) if device == "cuda" else torch.device(device)


@contextmanager
def _process_group(device: str, local_rank: int, **init_args: Any) -> Iterator[None]:
    """Join the process group; without `init_args`, by torchrun's environment variables."""
    # Otherwise every process would create a context on the first GPU.
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT, **init_args)
    yield

    # Not after an error, when it could wait for the other processes. This process ends anyway.
    dist.destroy_process_group()


# --------------------------------------------------------------------------- started processes


@dataclass(frozen=True)
class _Failure:
    """How a process failed.

    Args:
        time: seconds since the epoch; 0 for a killed process, since its death makes the others fail.
        message: in words.
        error: pickled exception, None if there is none or it cannot be pickled.
        signal: number of the signal that killed it, or 0.
    """

    rank: int
    time: float
    message: str
    error: bytes | None = None
    signal: int = 0


def _run(function, args, rank, count, device, port, writer) -> None:
    """Entry point of a started process."""
    # Ctrl-C reaches this process through its parent only, not twice.
    os.setpgrp()

    # Otherwise a killed parent would leave this process running.
    exit_with_parent()

    # The processes share the cores.
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // count))

    try:
        # Blocked by `_stop_signals_blocked` in the parent. From here on, Ctrl-C raises an exception.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        with _process_group(device, rank, store=store, rank=rank, world_size=count):
            function(_device_of(device, rank), *args)
    except (Exception, KeyboardInterrupt) as error:
        # The traceback as text, since pickling loses it.
        writer.send(_Failure(rank, time.time(), f"failed:\n{traceback.format_exc()}", _pickle_or_none(error)))
        raise SystemExit(1) from None


def _pickle_or_none(error: BaseException) -> bytes | None:
    # `Connection.send` would fail, and with it the report of the failure.
    try:
        data = pickle.dumps(error)
        # Fails for some exceptions whose __init__ has several arguments.
        pickle.loads(data)
    except Exception:
        return None
    return data


def _spawn(function: Callable[..., None], args: tuple, count: int, device: str) -> None:
    # CUDA does not survive a fork. The store lets processes find each other, on a port that the system chooses, so that
    # runs on one machine do not meet.
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes: list[BaseProcess] = []
    readers: dict[Connection, int] = {}  # rank by pipe
    with _stop_signals_forwarded(processes) as received:
        try:
            # Start, each process with a pipe for its failure.
            with _stop_signals_blocked():
                for rank in range(count):
                    reader, writer = context.Pipe(duplex=False)
                    run_args = (function, args, rank, count, device, store.port, writer)
                    process = context.Process(target=_run, args=run_args)
                    process.start()
                    # So that the reader gets an EOFError when the process ends.
                    writer.close()
                    processes.append(process)
                    readers[reader] = rank

            # A signal until now has reached only the processes started before it.
            if received:
                _raise_stop(received[0])

            # Wait until all succeed or one fails.
            failures = _wait(processes, readers)
            if failures:
                _raise_first(failures, count, received)
        finally:
            # After success all have ended already.
            _terminate(processes)


def _wait(processes: list[BaseProcess], readers: dict[Connection, int]) -> list[_Failure]:
    """Wait until all processes have ended or, after a failure, until no other one fails within FAILURE_SECONDS."""
    running = dict(readers)
    failures: list[_Failure] = []
    while running:
        # A pipe is ready when its process reports a failure or ends.
        ready = wait(list(running), FAILURE_SECONDS if failures else None)
        if not ready:
            break
        for reader in ready:
            rank = running.pop(reader)
            try:
                failures.append(reader.recv())
            except EOFError:
                # Ended without a report: successfully, killed, or by os._exit in a library.
                processes[rank].join()
                exit_code = processes[rank].exitcode

                # Python reports a signal as a negative exit code.
                if exit_code < 0:
                    message = f"was killed by {signal.Signals(-exit_code).name}"
                    failures.append(_Failure(rank, 0, message, signal=-exit_code))
                elif exit_code > 0:
                    failures.append(_Failure(rank, 0, f"ended with exit code {exit_code}"))
    return failures


def _raise_first(failures: list[_Failure], count: int, received: list[int]) -> NoReturn:
    """Raise the exception of the earliest failure; the others are its consequences."""
    first = min(failures, key=lambda failure: failure.time)

    # Not a failure but the end that a person asked for.
    if first.signal in received:
        _raise_stop(first.signal)

    # The cause carries rank and traceback, the exception itself what callers handle.
    cause = ProcessError(f"process {first.rank} of {count} {first.message}")
    if first.error is None:
        raise cause
    raise pickle.loads(first.error) from cause


def _terminate(processes: list[BaseProcess]) -> None:
    """Send SIGTERM to all processes, and SIGKILL to those that still run after TERMINATE_SECONDS."""
    # First a signal that the function may handle.
    for process in processes:
        process.terminate()

    # One deadline for all of them.
    deadline = time.monotonic() + TERMINATE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


# --------------------------------------------------------------------------- signals


def _raise_stop(number: int) -> NoReturn:
    """Raise the exception with which a signal ends a single process."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Start processes with stop signals blocked: `_run` unblocks them when it can end without a traceback."""
    # Otherwise started with the first process, which would unblock the signals.
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextmanager
def _stop_signals_forwarded(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Forward stop signals to the processes, unless they are ignored (nohup); yields the list of those received."""
    received: list[int] = []

    # Recorded too, because a process killed by the same signal has not failed.
    def forward(number: int, _frame: Any) -> None:
        received.append(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    # Signals ignored here are ignored by the started processes too.
    forwarded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, forward) for number in forwarded}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
