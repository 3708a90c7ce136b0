"""Who is served next: one thread that computes, pages that take turns, and requests that newer ones replace."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator

import click
import torch

from applications.editor.protocol import MessageError, pack

MAX_WAITING = 8  # of a page's requests for files, which are all to be answered
REPLACEABLE = ("edit", "look")  # in this order; of each only the newest is of use
STOP_S = 5  # a mesh may take longer; the thread ends with the process

Job = Iterator[bytes | None]  # one step at a time: a reply to send, or None


class Page:
    """One open page: what it waits for, and the scene that it sees.

    Args:
        send: takes a reply, in the worker's thread.
    """

    def __init__(self, send: Callable[[bytes], None]):
        self.send = send
        self.scene: str | None = None  # its newest; only jobs touch it
        self.newest: dict[str, tuple[int, Job]] = {}
        self.files: deque[tuple[int, Job]] = deque()


class Worker:
    """Runs the jobs of all pages, in turn: a page's picture, or one step of its first file."""

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

    def submit(self, page: Page, lane: str, id: int, job: Job) -> None:
        """Take a request; in the lanes of REPLACEABLE it replaces what still waits there.

        An edit brings its own view, so it replaces a waiting look too.

        Raises:
            MessageError: the page waits for too many files.
        """
        with self._changed:
            if lane in REPLACEABLE:
                for stale in REPLACEABLE[REPLACEABLE.index(lane) :]:
                    page.newest.pop(stale, None)
                page.newest[lane] = (id, job)
            elif len(page.files) >= MAX_WAITING:
                raise MessageError(f"{MAX_WAITING} files are being made for this page already; wait, or cancel", id)
            else:
                page.files.append((id, job))
            if page not in self._turns:
                self._turns.append(page)
            self._changed.notify()

    def cancel_files(self, page: Page) -> list[int]:
        """Forget the files that a page waits for; their ids."""
        with self._changed:
            ids = [id for id, _ in page.files]
            page.files.clear()
        return ids

    def forget(self, page: Page) -> None:
        """Forget everything that a page waits for."""
        with self._changed:
            page.newest.clear()
            page.files.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._turns or self._stopping)
                if self._stopping:
                    return
                page = self._turns.popleft()
                lane = next((name for name in REPLACEABLE if name in page.newest), None)
                task = page.newest.pop(lane) if lane else page.files[0] if page.files else None
            if task is None:  # forgotten since
                continue
            ended = _step(page, *task)
            with self._changed:
                if ended and lane is None and page.files and page.files[0] is task:
                    page.files.popleft()
                if (page.newest or page.files) and page not in self._turns:
                    self._turns.append(page)


@torch.inference_mode()
def _step(page: Page, id: int, job: Job) -> bool:
    """Run a job to its next reply or pause; whether that was its end. What fails is a message to the page."""
    try:
        reply = next(job)
    except StopIteration:
        return True
    except MessageError as error:
        page.send(pack(type="error", id=id, reason=str(error)))
        return True
    except Exception as error:  # whatever goes wrong in one picture, the other pages go on
        click.echo(traceback.format_exc(), err=True)
        page.send(pack(type="error", id=id, reason=f"the server failed: {type(error).__name__}: {error}"[:300]))
        return True
    if reply is not None:
        page.send(reply)
    return False
