"""dnnlib: attribute dict, files by URL against a real local server, log file, time in words."""

import contextlib
import copy
import errno
import hashlib
import http.server
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading

import click
import pytest
from click.testing import CliRunner
from paths import ROOT

import dnnlib
from dnnlib.cli import Command
from dnnlib.util import ATTEMPTS, EasyDict, Logger, atomic_write, default_cache_dir, format_time, open_url

CONTENT = bytes(range(256)) * 4000  # 1 MB: more than one read
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """/whole sends all; /breaks cuts every answer short; /rest does so once and knows ranges; /gone is not there."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        start = 0
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        if self.path.startswith("/rest") and self.headers.get("Range"):
            assert self.headers["If-Range"] == '"v1"'
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        if self.path.startswith("/rest"):
            self.send_header("ETag", '"v1"')
        body = CONTENT[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.path.startswith("/breaks") or (self.path.startswith("/rest") and start == 0)
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *args):
        """Quiet: the test's output is the tests' own."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files_in(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def fetch(url, cache, **options):
    with open_url(url, cache_dir=cache, progress=False, **options) as file:
        return file.read()


# --------------------------------------------------------------------------- attribute dict


def test_an_easydict_is_a_dict_whose_keys_are_attributes():
    d = dnnlib.EasyDict(a=1)
    d.b = 2
    d["c"] = 3
    del d.a
    assert d == {"b": 2, "c": 3} and d.c == 3
    assert not hasattr(d, "a") and getattr(d, "missing", "default") == "default"
    with pytest.raises(AttributeError, match="a"):
        del d.a


def test_an_easydict_survives_copying_and_pickling_with_its_type():
    d = EasyDict(a=[1], b=EasyDict(c=2))
    for twin in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert twin == d and isinstance(twin, EasyDict) and twin.b.c == 2 and twin.a is not d.a


# --------------------------------------------------------------------------- whole files


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "picture.png"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and files_in(tmp_path) == [path.name]


def test_what_fails_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with contextlib.suppress(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and files_in(tmp_path) == [path.name]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "picture.png"
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of file.write, which names none
    assert caught.value.filename == str(path) and files_in(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"other\.png"), atomic_write(path):
        (tmp_path / "other.png").open()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_command_that_is_asked_to_end_leaves_no_half_file_and_ends_as_shells_have_it(name, tmp_path):
    if not hasattr(signal, name):
        pytest.skip("not a signal of this system")
    number = getattr(signal, name)

    @click.command(cls=Command)
    def half() -> None:
        with atomic_write(tmp_path / "picture.png") as file:
            file.write(b"half")
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored
    try:
        result = CliRunner().invoke(half, [])
        assert result.exit_code == 128 + number and "Stopped: " in result.output
        assert files_in(tmp_path) == [] and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_what_nohup_ignores_stays_ignored():
    @click.command(cls=Command)
    def goes_on() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        click.echo("done")

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(goes_on, []).output == "done\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_whole_file_has_the_rights_of_any_other_file(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_write(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


# --------------------------------------------------------------------------- files by URL


@pytest.mark.parametrize("form", [str, lambda path: path, lambda path: path.as_uri()], ids=["str", "path", "file-url"])
def test_a_local_file_opens_by_path_and_by_file_url(tmp_path, form):
    path = tmp_path / "a name with spaces & ü.bin"
    path.write_bytes(CONTENT)
    assert fetch(form(path), tmp_path / "cache", sha256=DIGEST.upper()) == CONTENT
    assert files_in(tmp_path) == [path.name], "a local file needs no cache"


def test_a_local_file_with_another_digest_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"expected {DIGEST}"):
        open_url(tmp_path / "x", sha256=DIGEST)


def test_a_missing_file_and_an_unknown_scheme_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_url(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"ftp://host/file: cannot open ftp://.*https://"):
        open_url("ftp://host/file")


def test_a_download_is_kept_and_the_server_asked_once(server, tmp_path):
    for _ in range(2):
        assert fetch(f"{server.url}/whole/net.pkl?x=1", tmp_path) == CONTENT
    assert len(server.requests) == 1
    assert len(files_in(tmp_path)) == 1 and files_in(tmp_path)[0].endswith("-net.pkl")


def test_two_urls_with_the_same_last_name_do_not_mix(server, tmp_path):
    fetch(f"{server.url}/whole/a/net.pkl", tmp_path)
    fetch(f"{server.url}/whole/b/net.pkl", tmp_path)
    assert len(server.requests) == 2 and len(files_in(tmp_path)) == 2


def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path):
    assert fetch(f"{server.url}/rest", tmp_path, sha256=DIGEST) == CONTENT
    assert server.requests == [("/rest", None), ("/rest", f"bytes={len(CONTENT) // 2}-")]


def test_a_connection_that_keeps_breaking_is_an_error_and_leaves_no_file(server, tmp_path):
    with pytest.raises(ConnectionError, match=f"broke {ATTEMPTS} times, last after {len(CONTENT) // 2} of"):
        fetch(f"{server.url}/breaks", tmp_path)
    assert len(server.requests) == ATTEMPTS
    assert files_in(tmp_path) == []


def test_a_download_with_another_digest_leaves_no_file(server, tmp_path):
    with pytest.raises(ValueError, match=f"sha256 is {DIGEST}, expected {'0' * 64}"):
        fetch(f"{server.url}/whole", tmp_path, sha256="0" * 64)
    assert files_in(tmp_path) == []


def test_a_cached_file_that_went_bad_is_fetched_anew(server, tmp_path):
    fetch(f"{server.url}/whole", tmp_path)
    (tmp_path / files_in(tmp_path)[0]).write_bytes(b"damaged")
    assert fetch(f"{server.url}/whole", tmp_path, sha256=DIGEST) == CONTENT


def test_what_the_server_does_not_have_is_one_line(server, tmp_path):
    with pytest.raises(ConnectionError) as caught:
        fetch(f"{server.url}/gone", tmp_path)
    assert str(caught.value) == f"{server.url}/gone: the server answers 404 Not Found"
    assert files_in(tmp_path) == []


def test_no_server_is_one_line_that_names_the_url(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=f"^{url}: .*refused") as caught:
        fetch(url, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_environment_chooses_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "mine"))
    assert fetch(f"{server.url}/whole", None) == CONTENT
    assert len(files_in(tmp_path / "mine")) == 1
    monkeypatch.delenv("PIX2PIX3D_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "pix2pix3d"


# --------------------------------------------------------------------------- log file, time


def test_the_log_gets_both_streams_and_the_console_still_does(tmp_path, capsys):
    path = tmp_path / "log.txt"
    before = sys.stdout, sys.stderr
    for text in ("first", "second"):
        with Logger(path):
            print(text)
            print(f"{text} error", file=sys.stderr)
            assert path.read_text().endswith(f"{text} error\n"), "lines reach the file at once"
    assert (sys.stdout, sys.stderr) == before
    assert path.read_text() == "first\nfirst error\nsecond\nsecond error\n"
    out, err = capsys.readouterr()
    assert (out, err) == ("first\nsecond\n", "first error\nsecond error\n")


def test_the_console_is_restored_after_an_error_and_late_handlers_still_write(tmp_path, capsys):
    before = sys.stdout
    with contextlib.suppress(KeyboardInterrupt), Logger(tmp_path / "log.txt"):
        handler = logging.StreamHandler()  # keeps the stream of now
        raise KeyboardInterrupt
    assert sys.stdout is before
    handler.emit(logging.makeLogRecord({"msg": "late"}))
    assert capsys.readouterr().err == "late\n"
    assert (tmp_path / "log.txt").read_text() == ""


WITHOUT_TERMINAL = """
import sys; from dnnlib.util import Logger
with Logger(sys.argv[1]):
    print("before", flush=True)
    sys.stdin.read()
    print("after", flush=True)
    print("error", file=sys.stderr)
sys.exit(129)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind there")
def test_a_terminal_that_is_lost_costs_neither_the_log_nor_the_exit_code(tmp_path):
    ours, its = os.openpty()
    command = [sys.executable, "-c", WITHOUT_TERMINAL, str(tmp_path / "log.txt")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    with open(ours, "rb") as terminal:
        assert terminal.readline() == b"before\r\n"
    process.communicate(timeout=60)
    assert process.returncode == 129
    assert (tmp_path / "log.txt").read_text() == "before\nafter\nerror\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3723, "1h 02m 03s"),
        (86399, "23h 59m 59s"),
        (86400, "1d 00h 00m"),
        (93784, "1d 02h 03m"),
    ],
)
def test_time_in_words(seconds, words):
    assert format_time(seconds) == words
