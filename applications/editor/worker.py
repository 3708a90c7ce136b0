"""The rendering thread: runs requests of all clients in turn, and drops requests that newer ones replace."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import click
import torch

from applications.editor.protocol import MessageError, Reply, UnknownSceneError, pack
from dnnlib.errors import ConfigError

# Queues of a client, most urgent first. Only the newest request for a scene or a view matters; all files are made, with
# a separate queue for slow ones, so that others need not wait for them.
QUEUES = ("scene", "view", "file", "slow_file")
REPLACEABLE = ("scene", "view")
MAX_WAITING = 8  # requests in a file queue of a client
MAX_WAITING_BYTES = 128 * 2**20  # binary data in the requests of all clients
STOP_TIMEOUT_S = 5  # a step may take longer; the thread ends with the process

Job = Iterator[Reply | None]  # runs until the next reply, or None to let other clients run


@dataclass(eq=False)
class Task:
    """A request that is waiting or running.

    Args:
        id: of the message.
        job: the computation.
        size: bytes of binary data that it holds.
    """

    id: int
    job: Job
    size: int = 0


class Client:
    """An open page: its waiting requests and its newest scene.

    Args:
        send: sends a frame to the page; callable from any thread.
    """

    def __init__(self, send: Callable[[bytes], None]):
        self.send = send
        self.scene: str | None = None  # used by jobs only
        self.queues: dict[str, deque[Task]] = {name: deque() for name in QUEUES}

    @property
    def waiting(self) -> list[Task]:
        """All waiting requests, most urgent first."""
        return [task for queue in self.queues.values() for task in queue]


class Worker:
    """Runs jobs in a thread, one step of a client's most urgent job at a time, round-robin over clients."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._clients: deque[Client] = deque()  # clients with waiting requests, next one first
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

    def submit(self, client: Client, queue: str, task: Task) -> None:
        """Add a request.

        A request for a scene replaces waiting ones for scenes and views; a request for a view, those for views.

        Raises:
            MessageError: too many files are waiting, or too much binary data.
        """
        with self._changed:
            # Limits.
            if queue not in REPLACEABLE and len(client.queues[queue]) >= MAX_WAITING:
                raise MessageError(f"{MAX_WAITING} files are already waiting; try again later, or cancel", task.id)
            waiting_bytes = sum(waiting.size for other in {client, *self._clients} for waiting in other.waiting)
            if waiting_bytes + task.size > MAX_WAITING_BYTES:
                raise MessageError("Too much data is waiting on the server; try again later", task.id)

            if queue in REPLACEABLE:
                for outdated in REPLACEABLE[REPLACEABLE.index(queue) :]:
                    client.queues[outdated].clear()
            client.queues[queue].append(task)
            if client not in self._clients:
                self._clients.append(client)
            self._changed.notify()

    def cancel_slow_files(self, client: Client) -> None:
        """Drop a client's waiting and running requests for slow files, and confirm this to its page."""
        with self._changed:
            for task in client.queues["slow_file"]:
                client.send(pack(type="canceled", id=task.id))
            client.queues["slow_file"].clear()

    def remove(self, client: Client) -> None:
        """Drop all requests of a client."""
        with self._changed:
            for queue in client.queues.values():
                queue.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._clients or self._stopping)
                if self._stopping:
                    return
                client = self._clients.popleft()
            self._run_step(client)
            del client  # do not keep a closed page's data alive until the next step

    def _run_step(self, client: Client) -> None:
        """Run one step of a client's most urgent job, and send its reply unless the request was dropped meanwhile."""
        # A file request stays in its queue while it runs, so that it can be canceled and counts towards the limits.
        with self._changed:
            name = next((name for name in QUEUES if client.queues[name]), None)
            if name is None:
                return  # dropped since
            queue = client.queues[name]
            task = queue.popleft() if name in REPLACEABLE else queue[0]

        reply, is_done = _next_reply(task)

        with self._changed:
            was_dropped = name not in REPLACEABLE and task not in queue
            if reply is not None and not was_dropped:
                client.send(reply)
            if is_done and name not in REPLACEABLE and not was_dropped:
                queue.popleft()
            if client.waiting and client not in self._clients:
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
        fields = {"unknown_scene": True} if isinstance(error, UnknownSceneError) else {}
        return pack(type="error", id=task.id, reason=str(error), **fields), True
    except Exception as error:  # an unexpected error in one job must not end the thread
        log_exception()
        return internal_error(task.id, error), True


def internal_error(id: int | None, error: Exception) -> bytes:
    """Encode the message to a page about an unexpected exception."""
    return pack(type="error", id=id, reason=f"Server error: {type(error).__name__}: {error}"[:300])


def log_exception() -> None:
    """Print the traceback of the exception being handled to stderr, if that is still open."""
    with suppress(OSError, ValueError):
        click.echo(traceback.format_exc(), err=True)
