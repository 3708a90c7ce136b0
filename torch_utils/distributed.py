"""One run on several processes: starting and ending them, and what they tell each other."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = datetime.timedelta(minutes=30)  # for what rank 0 does alone while the others wait
GRADIENT_LIMIT = 1e5  # takes the place of infinity
OTHERS_SECONDS = 0.5  # after a failure: for the process that caused it to be known, if that was another one
PER_CORE = 4  # processes that compute on the CPU: more is a mistake, not a test
LEAVING_SECONDS = 10  # for processes that were asked to end
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# --------------------------------------------------------------------------- processes


class ProcessError(RuntimeError):
    """A process of the run failed or was killed; the message says which and how."""


def by_torchrun() -> bool:
    """Whether torchrun started this process, as one of the run: its environment variables are set."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(function: Callable[..., None], *args: Any, processes: int, device: str) -> None:
    """Call function(device, *args) in every process of the run, and return when all are done.

    Under torchrun this process is one of the run. Else there are `processes` on this machine: this one if it is one,
    new ones if it is more. New ones get every signal to stop that this process gets, and end when it ends.

    Args:
        function: what a new process can import by name.
        args: what can be pickled.
        device: cuda (each process has its own), cpu or mps.
    Raises:
        ValueError: see `check_processes`.
        ProcessError: a new process was killed, or failed with what cannot be raised here.
        KeyboardInterrupt, SystemExit: a signal to stop ended them, as it ends a process alone.
        Exception: that of the first new process that failed, with its traceback as the cause; the others are ended.
    """
    check_processes(device, processes)
    if processes == 1:
        function(_own_device(device, 0), *args)
    elif by_torchrun():
        local_rank = _local_rank()
        with _group(device, local_rank):
            function(_own_device(device, local_rank), *args)
    else:
        _spawn(function, args, processes, device)


def check_processes(device: str, processes: int) -> None:
    """Refuse a number of processes that torchrun did not start, or that this machine has no devices for.

    Raises:
        ValueError: which says what there is.
    """
    needed = processes
    if by_torchrun():
        if os.environ["WORLD_SIZE"] != str(processes):
            raise ValueError(f"{processes}: torchrun started {os.environ['WORLD_SIZE']} processes")
        needed = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), _local_rank() + 1)
    if device == "cpu":
        there = os.cpu_count() or 1
        enough, what = needed <= PER_CORE * there, f"CPU cores are there, {PER_CORE} processes for each at most"
    else:
        there = torch.cuda.device_count() if device == "cuda" else 1
        enough, what = needed <= there, "GPUs are there; --device=cpu computes on the CPU"
    if not enough:
        raise ValueError(f"{processes}: {needed} processes on this machine, {there} {what}")


def _local_rank() -> int:
    """Number of a process of torchrun on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _own_device(device: str, local_rank: int) -> torch.device:
    return torch.device(device, local_rank) if device == "cuda" else torch.device(device)


@contextmanager
def _group(device: str, local_rank: int, **how: Any) -> Iterator[None]:
    """Be one of the run's processes; `how` they find each other, by default torchrun's environment variables."""
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT, **how)
    yield
    dist.destroy_process_group()  # not after an error: it could wait for the others, and the process ends anyway


def _spawn(function: Callable[..., None], args: tuple, count: int, device: str) -> None:
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started: list[_Started] = []
    with _signals_passed_on(started) as came:
        try:
            with _signals_held():
                for rank in range(count):
                    reader, writer = context.Pipe(duplex=False)
                    told = function, args, rank, count, device, store.port, writer
                    process = context.Process(target=_run, args=told)
                    process.start()
                    writer.close()  # so that the reader sees the end of the process
                    started.append(_Started(rank, process, reader))
            if came:  # not all of them may have got it
                _stop(came[0])
            if failures := _wait_for_all(started):
                _raise_first(failures, count, came)
        finally:
            _end(started)


@contextmanager
def _signals_held() -> Iterator[None]:
    """A signal to stop that comes while processes start waits, in them until they can end in order: see _run."""
    resource_tracker.ensure_running()  # its start, else that of the first process, would let signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class _Started:
    rank: int
    process: Any
    reader: Connection


@dataclass(frozen=True)
class _Failure:
    rank: int
    when: float  # seconds; 0 for a process that said nothing: its death is why the others failed
    told: str
    error: bytes | None = None  # pickled
    signal: int = 0  # that killed it


def _run(function, args, rank, count, device, port, writer) -> None:
    """What a new process does."""
    os.setpgrp()  # a terminal's signals come from the starting process alone, not twice
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        with _group(device, rank, store=store, rank=rank, world_size=count):
            function(_own_device(device, rank), *args)
    except (Exception, KeyboardInterrupt) as error:
        writer.send(_Failure(rank, time.time(), f"failed:\n{traceback.format_exc()}", _pickled(error)))
        raise SystemExit(1) from None


def _leave_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _pickled(error: BaseException) -> bytes | None:
    """None where the exception would not come out of a pickle again."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data


def _wait_for_all(started: list[_Started]) -> list[_Failure]:
    """Failures; empty when all have ended well. Does not wait for those that outlast a failure."""
    running, failures = {one.reader: one for one in started}, []
    while running and (ready := wait(list(running), OTHERS_SECONDS if failures else None)):
        for one in map(running.pop, ready):
            try:
                failures.append(one.reader.recv())
            except EOFError:
                one.process.join()
                if code := one.process.exitcode:
                    failures.append(_Failure(one.rank, 0, _manner(code), signal=max(-code, 0)))
    return failures


def _manner(exit_code: int) -> str:
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"


def _raise_first(failures: list[_Failure], count: int, came: list[int]) -> NoReturn:
    first = min(failures, key=lambda failure: failure.when)
    if first.signal in came:  # it was not ready to end in another way
        _stop(first.signal)
    cause = ProcessError(f"process {first.rank} of {count} {first.told}")
    if first.error is None:
        raise cause
    raise pickle.loads(first.error) from cause


def _stop(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _end(started: list[_Started]) -> None:
    """Ask what still runs to end, and kill what does not."""
    for one in started:
        one.process.terminate()
    deadline = time.monotonic() + LEAVING_SECONDS
    for one in started:
        one.process.join(max(0.0, deadline - time.monotonic()))
        one.process.kill()
        one.process.join()


@contextmanager
def _signals_passed_on(started: list[_Started]) -> Iterator[list[int]]:
    """Gives the list of those that came so far; signals that are ignored (as nohup does with SIGHUP) stay so."""
    came: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        came.append(number)
        for one in started:
            if one.process.is_alive():
                os.kill(one.process.pid, number)

    wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in wanted}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------- what they tell each other


def rank() -> int:
    """Number of this process, from 0; rank 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all."""
    if world_size() > 1:
        dist.barrier()


def all_reduce(tensor: Tensor) -> None:
    """Put the sum over all processes into `tensor`, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)


def gather_objects(value: Any) -> list[Any]:
    """Every process's value (anything that pickles), by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(value: Any) -> Any:
    """Rank 0's value (anything that pickles), in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process, for all to do the same."""
    if world_size() == 1:
        return flag
    count = torch.tensor(int(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    all_reduce(count)
    return count.item() > 0


def copy_from_rank_0(module: nn.Module) -> None:
    """Give a module rank 0's parameters and buffers."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            whole = tensor.contiguous()
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def average_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Replace gradients by their mean over all processes, and in it NaN by 0 and infinities by +-GRADIENT_LIMIT.

    Where only some processes have a parameter's gradient, the others count as zeros; a parameter without a gradient
    in any stays so. All gradients go in one all-reduce; a process alone has no copy of them made.

    Args:
        parameters: of one type and device, the same in all processes.
    Returns:
        How many elements of the mean were not finite (int64, on the device: nothing waits for it).
    """
    parameters = _with_gradient_anywhere(list(parameters))
    if not parameters:
        return torch.zeros([], dtype=torch.int64)
    if world_size() == 1:
        return _make_finite([p.grad for p in parameters])
    mean = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    all_reduce(mean)
    mean /= world_size()
    bad = _make_finite([mean])
    for p, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    return bad


def _make_finite(gradients: list[Tensor]) -> Tensor:
    """In place; how many elements were not."""
    bad = torch.stack([gradient.isfinite().logical_not_().sum() for gradient in gradients]).sum()
    for gradient in gradients:
        gradient.nan_to_num_(nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return bad


def _with_gradient_anywhere(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Processes can differ: one may render from the sample's own pose, and reconstruct it, while another does not."""
    present = [p.grad is not None for p in parameters]
    if world_size() > 1 and parameters:
        counts = torch.tensor(present, dtype=torch.int32, device=parameters[0].device)
        all_reduce(counts)
        present = counts.tolist()  # waits for the device
    return [p for p, seen in zip(parameters, present, strict=True) if seen]
