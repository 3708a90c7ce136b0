"""The rendering thread: runs the requests of all clients in turn, and drops requests that newer ones replace."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import torch

from applications.editor.protocol import MessageError, Reply, pack
from dnnlib.cli import echo
from dnnlib.errors import ConfigError

# Requests from one client for files of the same priority.
MAX_WAITING = 8
# Binary data in the requests of all clients.
MAX_WAITING_BYTES = 128 * 2**20
# How long `stop` waits. A step may take longer; the thread ends with the process.
STOP_TIMEOUT_S = 5

# A job runs until it yields a reply, or None to let other clients run.
Job = Iterator[Reply | None]


class Priority(IntEnum):
    """Kind of a request; a client's requests run in this order."""

    SCENE = 0
    VIEW = 1
    FILE = 2
    # Videos and meshes; quick files need not wait for these.
    SLOW_FILE = 3


@dataclass(eq=False)
class Task:
    """A request that is waiting or running.

    Args:
        id: of the message.
        job: the computation.
        priority: its kind.
        size: bytes of binary data that it holds.
    """

    id: int
    job: Job
    priority: Priority
    size: int = 0

    @property
    def is_replaceable(self) -> bool:
        """Whether a newer request of this priority replaces it: true for scenes and views, false for files."""
        return self.priority in (Priority.SCENE, Priority.VIEW)


class Client:
    """An open page: its requests and its newest scene.

    Args:
        send: sends a frame to the page; callable from any thread.
    """

    def __init__(self, send: Callable[[bytes], None]):
        self.send = send
        # Used by jobs only, so by one thread.
        self.scene: str | None = None
        # Oldest first. Guarded by the lock of the worker.
        self.tasks: list[Task] = []


class Worker:
    """Runs jobs in a thread, one step of a client's most urgent job at a time, round-robin over clients."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Clients with requests, the next one first.
        self._clients: deque[Client] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="editor worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further steps, and wait a few seconds for the running one."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_TIMEOUT_S)

    def submit(self, client: Client, task: Task) -> None:
        """Add a request.

        A request for a scene replaces waiting ones for scenes and views; a request for a view, those for views.

        Raises:
            MessageError: too many files are waiting, or too much binary data.
        """
        with self._changed:
            # Limits, so that one page cannot fill the memory.
            same_kind = [other for other in client.tasks if other.priority == task.priority]
            if not task.is_replaceable and len(same_kind) >= MAX_WAITING:
                raise MessageError(f"{MAX_WAITING} files are already waiting; try again later, or cancel", task.id)
            waiting_bytes = sum(other.size for owner in {client, *self._clients} for other in owner.tasks)
            if waiting_bytes + task.size > MAX_WAITING_BYTES:
                raise MessageError("Too much data is waiting on the server; try again later", task.id)

            # A new scene also makes waiting views of the old scene obsolete.
            if task.is_replaceable:
                replaced = range(task.priority, Priority.FILE)
                client.tasks = [other for other in client.tasks if other.priority not in replaced]

            # A client already in line keeps its turn.
            client.tasks.append(task)
            if client not in self._clients:
                self._clients.append(client)
            self._changed.notify()

    def cancel_slow_files(self, client: Client) -> None:
        """Drop a client's waiting and running requests for slow files, and confirm this to its page."""
        with self._changed:
            for task in client.tasks:
                if task.priority == Priority.SLOW_FILE:
                    client.send(pack(type="canceled", id=task.id))
            client.tasks = [task for task in client.tasks if task.priority != Priority.SLOW_FILE]

    def remove(self, client: Client) -> None:
        """Drop all requests of a client."""
        with self._changed:
            client.tasks.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._clients or self._stopping)
                if self._stopping:
                    return
                client = self._clients.popleft()

            # The lock is not held while a step runs.
            self._run_step(client)
            # Do not keep the data of a closed page alive until the next step.
            del client

    def _run_step(self, client: Client) -> None:
        """Run one step of a client's most urgent job, and send its reply unless the request was dropped meanwhile."""
        # A file request stays in the list while it runs, so that it can be canceled and counts towards the limits.
        with self._changed:
            # All requests may have been dropped since the client was put in line.
            if not client.tasks:
                return

            # `min` returns the oldest of the most urgent ones.
            task = min(client.tasks, key=lambda task: task.priority)
            if task.is_replaceable:
                client.tasks.remove(task)

        reply, is_done = _next_reply(task)

        # Send the reply, and put the client back in line if it has more to do.
        with self._changed:
            if reply is not None and (task.is_replaceable or task in client.tasks):
                client.send(reply)
            if is_done and task in client.tasks:
                client.tasks.remove(task)
            if client.tasks and client not in self._clients:
                self._clients.append(client)


@torch.inference_mode()
def _next_reply(task: Task) -> tuple[bytes | None, bool]:
    """Run a job to its next reply or pause; return the frame to send, if any, and whether the job has ended."""
    try:
        reply = next(task.job)
        return reply and pack(reply.payload, type=reply.kind, id=task.id, **reply.fields), False
    except StopIteration:
        return None, True
    except (MessageError, ConfigError) as error:
        fields = error.fields if isinstance(error, MessageError) else {}
        return pack(type="error", id=task.id, reason=str(error), **fields), True
    # An unexpected error in one job must not end the thread.
    except Exception as error:
        return report_exception(task.id, error), True


def report_exception(id: int | None, error: Exception) -> bytes:
    """Print the traceback of an unexpected exception to stderr, and return the message to the page about it."""
    # Printing fails if stderr is closed.
    with suppress(OSError, ValueError):
        echo(*traceback.format_exc().split("\n"), err=True)
    return pack(type="error", id=id, reason=f"Server error: {type(error).__name__}: {error}"[:300])
