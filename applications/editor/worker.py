"""Who is served next: one thread that computes, pages that take turns, and requests that newer ones replace."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import click
import torch

from applications.editor.protocol import MessageError, UnknownScene, pack

# What a page waits for, in this order. Of the first two only the newest is of use; files are all to be answered, and
# one that is made at once need not wait for one that takes long.
SCENE, LOOK, FILE, LONG_FILE = LANES = ("scene", "look", "file", "long_file")
REPLACEABLE = (SCENE, LOOK)
MAX_WAITING = 8  # of a page's requests for files of either kind
MAX_WAITING_BYTES = 128 * 2**20  # that the requests of all pages hold
STOP_S = 5  # a step may take longer; the thread ends with the process

Job = Iterator[bytes | None]  # one step at a time: a reply to send, or None


@dataclass(eq=False)
class Task:
    """A request that waits or is being worked on: `id` is its message's, `size` the bytes it holds."""

    id: int
    job: Job
    size: int = 0


class Page:
    """One open page: what it waits for, and the scene that it sees.

    Args:
        send: takes a reply, in any thread.
    """

    def __init__(self, send: Callable[[bytes], None]):
        self.send = send
        self.scene: str | None = None  # its newest; only jobs touch it
        self.lanes: dict[str, deque[Task]] = {lane: deque() for lane in LANES}

    @property
    def waiting(self) -> list[Task]:
        """Most urgent first."""
        return [task for tasks in self.lanes.values() for task in tasks]


class Worker:
    """Runs the jobs of all pages, in turn: one step of what a page needs most urgently."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: deque[Page] = deque()  # pages with something to do
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="editor worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and wait a little for the step that is running."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_S)

    def submit(self, page: Page, lane: str, task: Task) -> None:
        """Take a request; in the lanes of REPLACEABLE it replaces what still waits there.

        A new scene brings its own view, so it replaces a waiting look too.

        Raises:
            MessageError: the page waits for too many files, or all pages' requests hold too much.
        """
        with self._changed:
            if lane not in REPLACEABLE and len(page.lanes[lane]) >= MAX_WAITING:
                raise MessageError(
                    f"{MAX_WAITING} files are being made for this page already; wait, or cancel", task.id
                )
            held = sum(waiting.size for other in {page, *self._turns} for waiting in other.waiting)
            if held + task.size > MAX_WAITING_BYTES:
                raise MessageError("the server has too much to read at the moment; try again later", task.id)
            for stale in REPLACEABLE[REPLACEABLE.index(lane) :] if lane in REPLACEABLE else ():
                page.lanes[stale].clear()
            page.lanes[lane].append(task)
            if page not in self._turns:
                self._turns.append(page)
            self._changed.notify()

    def cancel(self, page: Page) -> None:
        """Forget the long files that a page waits for, and say so."""
        with self._changed:
            for task in page.lanes[LONG_FILE]:
                page.send(pack(type="canceled", id=task.id))
            page.lanes[LONG_FILE].clear()

    def forget(self, page: Page) -> None:
        """Forget everything that a page waits for."""
        with self._changed:
            for tasks in page.lanes.values():
                tasks.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._turns or self._stopping)
                if self._stopping:
                    return
                page = self._turns.popleft()
            self._turn(page)
            del page  # what a closed page held must not stay until the next turn

    def _turn(self, page: Page) -> None:
        """One step of a page's first task; its reply is sent unless the task was forgotten meanwhile."""
        with self._changed:
            lane = next((name for name in LANES if page.lanes[name]), None)
            if lane is None:  # forgotten since
                return
            tasks = page.lanes[lane]
            task = tasks.popleft() if lane in REPLACEABLE else tasks[0]
        reply, ended = _step(task)
        with self._changed:
            forgotten = lane not in REPLACEABLE and task not in tasks
            if reply is not None and not forgotten:
                page.send(reply)
            if ended and lane not in REPLACEABLE and not forgotten:
                tasks.popleft()
            if page.waiting and page not in self._turns:
                self._turns.append(page)


@torch.inference_mode()
def _step(task: Task) -> tuple[bytes | None, bool]:
    """Run a job to its next reply or pause, and whether that was its end. What fails is a message to the page."""
    try:
        return next(task.job), False
    except StopIteration:
        return None, True
    except MessageError as error:
        lost = {"lost": True} if isinstance(error, UnknownScene) else {}
        return pack(type="error", id=task.id, reason=str(error), **lost), True
    except Exception as error:  # whatever goes wrong in one picture, the other pages go on
        report_crash()
        return failure(task.id, error), True


def failure(id: int | None, error: Exception) -> bytes:
    """What a page is told of an error that the program did not foresee."""
    return pack(type="error", id=id, reason=f"the server failed: {type(error).__name__}: {error}"[:300])


def report_crash() -> None:
    """Write the error that is being handled where the server's log goes, if it goes anywhere."""
    with suppress(OSError, ValueError):
        click.echo(traceback.format_exc(), err=True)
