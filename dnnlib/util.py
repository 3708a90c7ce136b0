"""Atomic writes, files by path or URL, console output copied to a log file, formatted durations."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import secrets
import stat
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

from dnnlib.errors import printable
from dnnlib.limits import MAX_WEIGHTS_BYTES

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30  # without receiving a byte

# --------------------------------------------------------------------------- writing


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` if the block succeeds, and is removed if it fails.

    After the block the file is on the disk, not only in the system's cache.

    Raises:
        OSError: cannot be written; names `path`.
    """
    path = Path(path)
    # Hidden, and in the same directory, because renaming is atomic only within a file system.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("x+b") as file:
            yield file

            # Otherwise a power failure could leave an empty file under the new name.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as RuntimeError.
        cause = error if isinstance(error, OSError) else error.__context__

        # Not errors of other files, nor those without a number, whose message is all they have.
        of_this_file = isinstance(cause, OSError) and str(cause.filename or temporary).endswith(temporary.name)
        if not of_this_file or cause.errno is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power failure, on systems that can sync directories."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_outdir(outdir: Path) -> None:
    """Check that files can be written to a directory, which need not exist yet and is not created.

    Raises:
        OSError: a file is in its place, or there is no permission.
    """
    # Missing directories will be created in the nearest one that exists, which decides.
    existing = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing}: expected a directory, got a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing}: no write permission")


# --------------------------------------------------------------------------- reading by path or URL


def read_file(path: str | os.PathLike[str], at_most: int) -> bytes:
    """Read a file of limited size.

    Raises:
        OSError: no such file, not a regular file, or more than `at_most` bytes.
    """
    with open_regular(path) as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise OSError(errno.EFBIG, f"more than {at_most} bytes", os.fspath(path))
    return content


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: no such file, or a directory, pipe or device, of which some could be read forever.
    """
    # Before opening, which waits for a writer if it is a pipe.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        reason = "is a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EINVAL, reason, os.fspath(path))
    return open(path, "rb")


def open_url(url: str | os.PathLike[str], check: Callable[[BinaryIO], object] | None = None) -> BinaryIO:
    """Open a local path, a file:// URL or an http(s):// URL for reading; downloads are cached.

    Args:
        url: path or URL; a Windows drive letter is not a scheme.
        check: called with a download before it is kept, to raise an error if it is not what is expected.
    Returns:
        A seekable binary file at its start, to be closed by the caller.
    Raises:
        OSError: no such file; ConnectionError if the download fails.
        ValueError: unknown scheme.
    """
    url = os.fspath(url)
    parts = urllib.parse.urlsplit(url)

    # Downloads: the cached file, whatever the server has by now.
    path = cached_path(url)
    if path is not None:
        if not path.exists():
            _download(url, path, check)
        return path.open("rb")

    # Local files.
    if parts.scheme == "file":
        return open_regular(urllib.request.url2pathname(parts.path))
    if "://" in url:
        raise ValueError(f"{url}: cannot open {parts.scheme}:// URLs; use a path, file://, http:// or https://")
    return open_regular(url)


def cached_path(url: str) -> Path | None:
    """Return the path of the cached download of an http(s):// URL, which need not exist; None for anything else."""
    is_download = urllib.parse.urlsplit(url).scheme in ("http", "https")
    return default_cache_dir() / _cache_name(url) if is_download else None


def default_cache_dir() -> Path:
    """Return $PIX2PIX3D_CACHE, or ~/.cache/pix2pix3d if it is not set."""
    return Path(os.environ.get("PIX2PIX3D_CACHE") or Path.home() / ".cache" / "pix2pix3d")


def _cache_name(url: str) -> str:
    """Return a unique file name for the URL, ending in the file name in the URL."""
    # The digest makes it unique; the file name helps people to find it.
    file_name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
    readable = "".join(c if c.isalnum() or c in "._-" else "_" for c in file_name)[-80:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{readable}"


def _download(url: str, path: Path, check: Callable[[BinaryIO], object] | None) -> None:
    """Download to `path`; the file appears only once it is complete and `check`, if given, raises no error."""
    path.parent.mkdir(parents=True, exist_ok=True)

    # Connect. Servers need not state the length. Only the whole file was asked for.
    with _connection_errors(url):
        response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    length = response.headers.get("Content-Length")
    total = int(length) if length and length.isdecimal() else None
    if response.status != http.HTTPStatus.OK or (length and total is None) or (total or 0) > MAX_WEIGHTS_BYTES:
        response.close()
        raise ConnectionError(f"{url}: the server answered {response.status} with {length} bytes, not the whole file")

    # Receive, with a bar if that takes longer than a second.
    bar = tqdm(desc=printable(url), total=total, unit="B", unit_scale=True, unit_divisor=1024, delay=1)
    with response, bar, atomic_write(path) as file:
        chunk = None
        while chunk != b"":
            # Errors of the connection only, not of the disk.
            with _connection_errors(url):
                chunk = response.read(CHUNK_BYTES)
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > MAX_WEIGHTS_BYTES:
                raise ConnectionError(f"{url}: more than {MAX_WEIGHTS_BYTES} bytes")

        # A lost connection can look like the end of the file.
        if total is not None and file.tell() != total:
            raise ConnectionError(f"{url}: connection lost after {file.tell()} of {total} bytes; try again")
        if check is not None:
            file.seek(0)
            check(file)


@contextmanager
def _connection_errors(url: str) -> Iterator[None]:
    """Convert errors of a connection to a ConnectionError that names the URL."""
    try:
        yield
    except urllib.error.HTTPError as error:
        # It holds the open connection.
        error.close()
        raise ConnectionError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        # URLError wraps the cause, such as a refused connection.
        raise ConnectionError(f"{url}: {getattr(error, 'reason', error)}") from None


# --------------------------------------------------------------------------- console and time


@contextmanager
def log_to_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Copy all output of the block to stdout and stderr into a file, appending to it."""
    # Buffered by lines, so that a killed run keeps its log; appended, so that a continued one does too.
    with (
        open(path, "a", encoding="utf-8", buffering=1) as file,
        redirect_stdout(_Tee(sys.stdout, file)),
        redirect_stderr(_Tee(sys.stderr, file)),
    ):
        yield


class _Tee:
    """Text stream that also writes to a file, and ignores errors of the stream; other attributes are the stream's."""

    def __init__(self, stream: TextIO, file: TextIO):
        self._stream = stream
        self._file = file

    def write(self, text: str) -> int:
        # A logging handler may use this object after the block.
        if not self._file.closed:
            self._file.write(text)
        # The terminal may be closed.
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        # For example `isatty` and `encoding`, which tqdm and click ask for.
        return getattr(self._stream, name)


def format_time(seconds: float) -> str:
    """Format a duration as "7s", "2m 07s", "1h 02m 07s" or "3d 01h 02m"."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)

    # From a day on, seconds do not matter.
    if days:
        return f"{days}d {h:02d}h {m:02d}m"
    if hours:
        return f"{h}h {m:02d}m {s:02d}s"
    return f"{m}m {s:02d}s" if minutes else f"{s}s"
