"""Who is served when: pages take turns, newer requests replace older ones, what was forgotten says nothing."""

import queue
import threading

import pytest

from applications.editor.protocol import MessageError, pack, unpack
from applications.editor.worker import (
    FILE,
    LONG_FILE,
    LOOK,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    SCENE,
    Page,
    Task,
    Worker,
)


class Gate:
    """A job that holds the worker until it is opened, so that a test can fill the queue."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def job(self):
        self.reached.set()
        assert self.opened.wait(10)
        yield pack(type="gate")


def reply(name):
    yield pack(type=name)


def long(name, steps):
    for _ in range(steps):
        yield None
    yield pack(type=name)


@pytest.fixture
def running():
    worker = Worker()
    worker.start()
    gate, replies = Gate(), queue.Queue()
    worker.submit(Page(replies.put), LOOK, Task(0, gate.job()))
    assert gate.reached.wait(10)
    yield worker, gate, replies
    gate.opened.set()
    worker.stop()


def types(replies, count):
    return [unpack(replies.get(timeout=10))[0]["type"] for _ in range(count)]


def test_of_waiting_looks_only_the_newest_is_rendered(running):
    worker, gate, replies = running
    page = Page(replies.put)
    for number in range(20):
        worker.submit(page, LOOK, Task(number, reply(f"look {number}")))
    worker.submit(page, FILE, Task(20, reply("end")))
    gate.opened.set()
    assert types(replies, 3) == ["gate", "look 19", "end"]


def test_a_new_scene_replaces_older_ones_and_looks_but_no_files(running):
    worker, gate, replies = running
    page = Page(replies.put)
    for number, lane in enumerate([FILE, SCENE, LOOK, SCENE, LOOK]):
        worker.submit(page, lane, Task(number, reply(f"{lane} {number}")))
    gate.opened.set()
    assert types(replies, 4) == ["gate", "scene 3", "look 4", "file 0"]


def test_a_file_that_is_made_at_once_does_not_wait_for_a_film(running):
    worker, gate, replies = running
    page = Page(replies.put)
    worker.submit(page, LONG_FILE, Task(1, long("film", steps=50)))
    worker.submit(page, FILE, Task(2, reply("image")))
    gate.opened.set()
    assert types(replies, 3) == ["gate", "image", "film"]


def test_a_page_that_asks_for_much_does_not_keep_another_waiting(running):
    worker, gate, replies = running
    greedy, modest = Page(replies.put), Page(replies.put)
    for number in range(MAX_WAITING):
        worker.submit(greedy, LONG_FILE, Task(number, long(f"film {number}", steps=50)))
    worker.submit(modest, LOOK, Task(0, reply("look")))
    gate.opened.set()
    assert types(replies, 2 + MAX_WAITING) == ["gate", "look", *(f"film {number}" for number in range(MAX_WAITING))]


def test_a_page_may_not_pile_up_files_without_end(running):
    worker, _, replies = running
    page = Page(replies.put)
    for number in range(MAX_WAITING):
        worker.submit(page, FILE, Task(number, reply("file")))
    with pytest.raises(MessageError, match=f"{MAX_WAITING} files are being made"):
        worker.submit(page, FILE, Task(99, reply("file")))


def test_all_pages_together_may_not_fill_the_memory(running):
    worker, _, replies = running
    for _ in range(4):
        worker.submit(Page(replies.put), FILE, Task(1, reply("file"), size=MAX_WAITING_BYTES // 4))
    with pytest.raises(MessageError, match="too much to read"):
        worker.submit(Page(replies.put), FILE, Task(2, reply("file"), size=1))


def test_a_cancelled_film_says_nothing_after_that_and_is_let_go(running):
    worker, gate, replies = running
    page, film, ended = Page(replies.put), Gate(), threading.Event()

    def job():
        try:
            yield from film.job()
        finally:
            ended.set()

    worker.submit(page, LONG_FILE, Task(1, job()))
    gate.opened.set()
    assert film.reached.wait(10)
    worker.cancel(page)
    film.opened.set()
    worker.submit(page, FILE, Task(2, reply("image")))
    assert types(replies, 3) == ["gate", "canceled", "image"], (
        "what the film had to say when it was canceled is dropped"
    )
    assert ended.wait(10), "its files are removed and its memory is freed"


def test_a_closed_page_costs_nothing_more(running):
    worker, gate, replies = running
    page = Page(replies.put)
    worker.submit(page, FILE, Task(1, long("film", steps=5)))
    worker.submit(page, LOOK, Task(2, reply("look")))
    worker.forget(page)
    worker.submit(Page(replies.put), LOOK, Task(3, reply("another page")))
    gate.opened.set()
    assert types(replies, 2) == ["gate", "another page"]
    assert replies.empty()


def test_the_worker_outlives_a_crash_that_it_cannot_report(running, monkeypatch):
    worker, gate, replies = running

    def broken(*args, **kwargs):
        raise BrokenPipeError

    def crash():
        yield 1 / 0

    monkeypatch.setattr("click.echo", broken)
    gate.opened.set()
    worker.submit(Page(replies.put), LOOK, Task(1, crash()))
    assert types(replies, 2) == ["gate", "error"]
    worker.submit(Page(replies.put), LOOK, Task(2, reply("look")))
    assert types(replies, 1) == ["look"]
