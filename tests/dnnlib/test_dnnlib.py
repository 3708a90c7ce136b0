"""dnnlib: atomic writes, signals, downloads from a local server, log file, formatted durations."""

import contextlib
import errno
import http.server
import logging
import os
import signal
import subprocess
import sys
import threading

import click
import pytest
from click.testing import CliRunner
from paths import ROOT

from dnnlib.cli import Command
from dnnlib.util import atomic_write, default_cache_dir, format_time, log_to_file, open_url

CONTENT = bytes(range(256)) * 4000  # 1 MB: more than one read


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under /whole, the first half of it under /breaks, and error 404 under /gone."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path.startswith("/breaks") else CONTENT)

    def log_message(self, *args):
        """Print nothing."""


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


def files_in(directory):
    return sorted(p.name for p in directory.iterdir()) if directory.exists() else []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Directory of downloads, created by the first one."""
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetch(url):
    with open_url(url) as file:
        return file.read()


# --------------------------------------------------------------------------- atomic writes


def test_a_file_appears_under_its_name_only_when_complete(tmp_path):
    path = tmp_path / "image.png"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and files_in(tmp_path) == [path.name]


def test_a_failed_write_keeps_the_previous_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    with contextlib.suppress(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and files_in(tmp_path) == [path.name]


def test_a_full_disk_raises_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "image.png"
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as raised by file.write
    assert caught.value.filename == str(path) and files_in(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"other\.png"), atomic_write(path):
        (tmp_path / "other.png").open()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_terminated_command_removes_its_temporary_file_and_exits_with_128_plus_the_signal(name, tmp_path):
    if not hasattr(signal, name):
        pytest.skip("not a signal of this system")
    number = getattr(signal, name)

    @click.command(cls=Command)
    def interrupted() -> None:
        with atomic_write(tmp_path / "image.png") as file:
            file.write(b"half")
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        result = CliRunner().invoke(interrupted, [])
        assert result.exit_code == 128 + number and "Stopped: " in result.output
        assert files_in(tmp_path) == [] and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_ignored_by_nohup_stays_ignored():
    @click.command(cls=Command)
    def hung_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        click.echo("done")

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(hung_up, []).output == "done\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_written_file_has_default_permissions(tmp_path):
    (tmp_path / "touched").touch()
    with atomic_write(tmp_path / "written"):
        pass
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "touched").stat().st_mode


# --------------------------------------------------------------------------- files by URL


@pytest.mark.parametrize("form", [str, lambda path: path, lambda path: path.as_uri()], ids=["str", "path", "file-url"])
def test_a_local_file_opens_by_path_and_by_file_url(tmp_path, cache, form):
    path = tmp_path / "a name with spaces & ü.bin"
    path.write_bytes(CONTENT)
    assert fetch(form(path)) == CONTENT
    assert not cache.exists()


def test_errors_name_a_missing_file_and_an_unknown_scheme(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_url(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"ftp://host/file: cannot open ftp://.*https://"):
        open_url("ftp://host/file")


def test_a_download_is_cached(server, cache):
    for _ in range(2):
        assert fetch(f"{server.url}/whole/net.pkl?x=1") == CONTENT
    assert len(server.requests) == 1
    assert len(files_in(cache)) == 1 and files_in(cache)[0].endswith("-net.pkl")


def test_urls_with_the_same_file_name_are_cached_separately(server, cache):
    fetch(f"{server.url}/whole/a/net.pkl")
    fetch(f"{server.url}/whole/b/net.pkl")
    assert len(server.requests) == 2 and len(files_in(cache)) == 2


def test_a_lost_connection_is_an_error_and_leaves_no_file(server, cache):
    with pytest.raises(ConnectionError, match=f"connection lost after {len(CONTENT) // 2} of {len(CONTENT)} bytes"):
        fetch(f"{server.url}/breaks")
    assert files_in(cache) == []


def test_an_http_error_is_one_line(server, cache):
    with pytest.raises(ConnectionError) as caught:
        fetch(f"{server.url}/gone")
    assert str(caught.value) == f"{server.url}/gone: the server answered 404 Not Found"
    assert files_in(cache) == []


def test_a_refused_connection_is_one_line_that_names_the_url(server, cache):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=f"^{url}: .*refused") as caught:
        fetch(url)
    assert "\n" not in str(caught.value)


def test_the_default_cache_directory_is_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("PIX2PIX3D_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "pix2pix3d"


# --------------------------------------------------------------------------- log file, time


def test_both_streams_are_written_to_the_log_and_the_console(tmp_path, capsys):
    path = tmp_path / "log.txt"
    before = sys.stdout, sys.stderr
    for text in ("first", "second"):
        with log_to_file(path):
            print(text)
            print(f"{text} error", file=sys.stderr)
            assert path.read_text().endswith(f"{text} error\n"), "the file is line buffered"
    assert (sys.stdout, sys.stderr) == before
    assert path.read_text() == "first\nfirst error\nsecond\nsecond error\n"
    out, err = capsys.readouterr()
    assert (out, err) == ("first\nsecond\n", "first error\nsecond error\n")


def test_the_console_is_restored_after_an_error_and_logging_handlers_created_inside_still_write(tmp_path, capsys):
    before = sys.stdout
    with contextlib.suppress(KeyboardInterrupt), log_to_file(tmp_path / "log.txt"):
        handler = logging.StreamHandler()  # keeps a reference to the current stream
        raise KeyboardInterrupt
    assert sys.stdout is before
    handler.emit(logging.makeLogRecord({"msg": "late"}))
    assert capsys.readouterr().err == "late\n"
    assert (tmp_path / "log.txt").read_text() == ""


WITHOUT_TERMINAL = """
import sys; from dnnlib.util import log_to_file
with log_to_file(sys.argv[1]):
    print("before", flush=True)
    sys.stdin.read()
    print("after", flush=True)
    print("error", file=sys.stderr)
sys.exit(129)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_a_closed_terminal_changes_neither_the_log_nor_the_exit_code(tmp_path):
    controller, terminal = os.openpty()
    command = [sys.executable, "-c", WITHOUT_TERMINAL, str(tmp_path / "log.txt")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    with open(controller, "rb") as output:
        assert output.readline() == b"before\r\n"
    process.communicate(timeout=60)
    assert process.returncode == 129
    assert (tmp_path / "log.txt").read_text() == "before\nafter\nerror\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
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
def test_durations_are_formatted(seconds, expected):
    assert format_time(seconds) == expected
