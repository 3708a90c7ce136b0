"""The worker: clients take turns, newer requests replace older ones, and dropped requests send nothing."""

import queue
import threading

import pytest

from applications.editor.protocol import MessageError, Reply, unpack
from applications.editor.worker import MAX_WAITING, MAX_WAITING_BYTES, Client, Priority, Task, Worker


class Gate:
    """A job that blocks the worker until it is opened, so that a test can fill the queues."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def job(self):
        self.reached.set()
        assert self.opened.wait(10)
        yield Reply("gate")


def reply(name):
    yield Reply(name)


def slow(name, steps):
    for _ in range(steps):
        yield None
    yield Reply(name)


@pytest.fixture
def running():
    worker = Worker()
    worker.start()
    gate, replies = Gate(), queue.Queue()
    worker.submit(Client(replies.put), Task(0, gate.job(), Priority.VIEW))
    assert gate.reached.wait(10)
    yield worker, gate, replies
    gate.opened.set()
    worker.stop()


def types(replies, count):
    return [unpack(replies.get(timeout=10))[0]["type"] for _ in range(count)]


def test_only_the_newest_waiting_view_is_rendered(running):
    worker, gate, replies = running
    client = Client(replies.put)
    for number in range(20):
        worker.submit(client, Task(number, reply(f"view {number}"), Priority.VIEW))
    worker.submit(client, Task(20, reply("end"), Priority.FILE))
    gate.opened.set()
    assert types(replies, 3) == ["gate", "view 19", "end"]


def test_a_new_scene_replaces_older_scenes_and_views_but_no_files(running):
    worker, gate, replies = running
    client = Client(replies.put)
    kinds = [Priority.FILE, Priority.SCENE, Priority.VIEW, Priority.SCENE, Priority.VIEW]
    for number, priority in enumerate(kinds):
        worker.submit(client, Task(number, reply(f"{priority.name.lower()} {number}"), priority))
    gate.opened.set()
    assert types(replies, 4) == ["gate", "scene 3", "view 4", "file 0"]


def test_a_quick_file_does_not_wait_for_a_video(running):
    worker, gate, replies = running
    client = Client(replies.put)
    worker.submit(client, Task(1, slow("video", steps=50), Priority.SLOW_FILE))
    worker.submit(client, Task(2, reply("image"), Priority.FILE))
    gate.opened.set()
    assert types(replies, 3) == ["gate", "image", "video"]


def test_a_client_with_many_requests_does_not_delay_another(running):
    worker, gate, replies = running
    busy, idle = Client(replies.put), Client(replies.put)
    for number in range(MAX_WAITING):
        worker.submit(busy, Task(number, slow(f"video {number}", steps=50), Priority.SLOW_FILE))
    worker.submit(idle, Task(0, reply("render"), Priority.VIEW))
    gate.opened.set()
    assert types(replies, 2 + MAX_WAITING) == ["gate", "render", *(f"video {number}" for number in range(MAX_WAITING))]


def test_the_number_of_waiting_files_per_client_is_limited(running):
    worker, _, replies = running
    client = Client(replies.put)
    for number in range(MAX_WAITING):
        worker.submit(client, Task(number, reply("file"), Priority.FILE))
    with pytest.raises(MessageError, match=f"{MAX_WAITING} files are already waiting"):
        worker.submit(client, Task(99, reply("file"), Priority.FILE))


def test_the_waiting_data_of_all_clients_is_limited(running):
    worker, _, replies = running
    for _ in range(4):
        worker.submit(Client(replies.put), Task(1, reply("file"), Priority.FILE, size=MAX_WAITING_BYTES // 4))
    with pytest.raises(MessageError, match="Too much data"):
        worker.submit(Client(replies.put), Task(2, reply("file"), Priority.FILE, size=1))


def test_a_canceled_video_sends_nothing_more_and_is_released(running):
    worker, gate, replies = running
    client = Client(replies.put)
    video = Gate()
    ended = threading.Event()

    def job():
        try:
            yield from video.job()
        finally:
            ended.set()

    worker.submit(client, Task(1, job(), Priority.SLOW_FILE))
    gate.opened.set()
    assert video.reached.wait(10)
    worker.cancel_slow_files(client)
    video.opened.set()
    worker.submit(client, Task(2, reply("image"), Priority.FILE))
    assert types(replies, 3) == ["gate", "canceled", "image"], "the video's reply after the cancellation is dropped"
    assert ended.wait(10), "its temporary files are removed and its memory is freed"


def test_requests_of_a_removed_client_are_dropped(running):
    worker, gate, replies = running
    client = Client(replies.put)
    worker.submit(client, Task(1, slow("video", steps=5), Priority.FILE))
    worker.submit(client, Task(2, reply("render"), Priority.VIEW))
    worker.remove(client)
    worker.submit(Client(replies.put), Task(3, reply("another client"), Priority.VIEW))
    gate.opened.set()
    assert types(replies, 2) == ["gate", "another client"]
    assert replies.empty()


def test_the_worker_survives_an_error_that_it_cannot_log(running, monkeypatch):
    worker, gate, replies = running

    def broken(*args, **kwargs):
        raise BrokenPipeError

    def crash():
        yield 1 / 0

    monkeypatch.setattr("click.echo", broken)
    gate.opened.set()
    worker.submit(Client(replies.put), Task(1, crash(), Priority.VIEW))
    assert types(replies, 2) == ["gate", "error"]
    worker.submit(Client(replies.put), Task(2, reply("render"), Priority.VIEW))
    assert types(replies, 1) == ["render"]
